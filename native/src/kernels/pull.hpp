// What draws some numbers of a model towards others, as covey/learning/mixture.py has it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace {

// Adds weight * (values - own) at indices; whether all of them are below `size`. Those before the first one that is not
// have then been added. An index may be there twice, so that no vector is scattered.
bool pull(float *total, const float *own, std::size_t size, const std::int64_t *indices, const float *values,
          std::size_t count, float weight) {
    const float away = -weight;
    for (std::size_t i = 0; i < count; ++i) {
        const auto index = static_cast<std::uint64_t>(indices[i]);
        if (index >= size) return false;
        total[index] += (own[index] - values[i]) * away;
    }
    return true;
}

} // namespace
