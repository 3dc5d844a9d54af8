// The kernels that each instruction set has.
#pragma once

#include <cstddef>
#include <cstdint>

namespace covey {

struct Kernels {
    const char *isa;
    std::uint64_t (*rice_unary_bits)(const std::int64_t *gaps, std::size_t count, int k);
    void (*rice_encode)(const std::int64_t *gaps, std::size_t count, int k, std::uint8_t *out, std::size_t length);
    bool (*rice_decode)(const std::uint8_t *stream, std::size_t length, std::int64_t size, std::size_t count,
                        std::int64_t *indices);
    bool (*pull)(float *total, const float *own, std::size_t size, const std::int64_t *indices, const float *values,
                 std::size_t count, float weight);
};

namespace portable { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
namespace neon { extern const Kernels kernels; }

} // namespace covey
