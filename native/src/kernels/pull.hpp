// What draws some numbers of a model towards others, as covey/learning/mixture.py has it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace {

// Adds weight * (values - own) at places; whether all of them are below `size`. Those before the first one that is not
// have then been added. A place may be there twice, so that no vector is scattered.
bool pull(float *total, const float *own, std::size_t size, const std::int64_t *places, const float *values,
          std::size_t count, float weight) {
    const float away = -weight;
    for (std::size_t i = 0; i < count; ++i) {
        const auto place = static_cast<std::uint64_t>(places[i]);
        if (place >= size) return false;
        total[place] += (own[place] - values[i]) * away;
    }
    return true;
}

} // namespace
