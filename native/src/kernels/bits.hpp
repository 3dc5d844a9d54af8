// Streams of bits, the highest bit of each byte first, read and written in words whose lowest bit is the first one; and
// such words against 64 bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(COVEY_NEON)
#include <arm_neon.h>
#endif

namespace {

using std::int64_t;
using std::size_t;
using std::uint32_t;
using std::uint64_t;
using std::uint8_t;

constexpr size_t block = 64;
constexpr uint64_t in_each_byte = 0x0101010101010101u;

// The number whose lowest byte comes first in memory.
inline uint64_t from_bytes(const uint8_t *bytes) {
    uint64_t word = 0;
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    std::memcpy(&word, bytes, 8);
#else
    for (int i = 0; i < 8; ++i) word |= static_cast<uint64_t>(bytes[i]) << 8 * i;
#endif
    return word;
}

inline void to_bytes(uint64_t word, uint8_t *bytes) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    std::memcpy(bytes, &word, 8);
#else
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<uint8_t>(word >> 8 * i);
#endif
}

// A word with the bits of each of its bytes in the other order.
inline uint64_t turned(uint64_t word) {
    word = (word >> 4 & 0x0f * in_each_byte) | (word & 0x0f * in_each_byte) << 4;
    word = (word >> 2 & 0x33 * in_each_byte) | (word & 0x33 * in_each_byte) << 2;
    return (word >> 1 & 0x55 * in_each_byte) | (word & 0x55 * in_each_byte) << 1;
}

// The index of the lowest one of a word that is not 0.
inline unsigned lowest(uint64_t word) {
#if defined(__GNUC__)
    return static_cast<unsigned>(__builtin_ctzll(word));
#else
    unsigned index = 0;
    for (; !(word & 1); word >>= 1) ++index;
    return index;
#endif
}

// The 64 bits from a byte on; those beyond the stream are zeros.
inline uint64_t word_at(const uint8_t *stream, size_t length, size_t byte) {
    if (length >= 8 && byte <= length - 8) return turned(from_bytes(stream + byte));
    uint8_t rest[8] = {};
    if (byte < length) std::memcpy(rest, stream + byte, length - byte);
    return turned(from_bytes(rest));
}

// The 64 bits from a bit on; those beyond the stream are zeros.
inline uint64_t bits_at(const uint8_t *stream, size_t length, uint64_t bit) {
    const size_t byte = static_cast<size_t>(bit / 8);
    const unsigned shift = bit % 8;
    const uint64_t word = word_at(stream, length, byte);
    return shift ? word >> shift | word_at(stream, length, byte + 8) << (64 - shift) : word;
}

// Sets those bits of a stream that are ones in a word, from a byte on; nothing is written beyond the stream.
inline void add_word(uint8_t *stream, size_t length, size_t byte, uint64_t word) {
    uint8_t added[8];
    if (length >= 8 && byte <= length - 8) {
        to_bytes(from_bytes(stream + byte) | turned(word), stream + byte);
        return;
    }
    to_bytes(turned(word), added);
    for (size_t i = 0; byte + i < length && i < 8; ++i) stream[byte + i] |= added[i];
}

// The same from a bit on.
inline void add_bits(uint8_t *stream, size_t length, uint64_t bit, uint64_t word) {
    const size_t byte = static_cast<size_t>(bit / 8);
    const unsigned shift = bit % 8;
    add_word(stream, length, byte, word << shift);
    if (shift) add_word(stream, length, byte + 8, word >> (64 - shift));
}

// A word of one bit of each of 64 bytes.
inline uint64_t gathered(const uint8_t *bytes, unsigned bit) {
#if defined(__AVX512BW__)
    return _mm512_test_epi8_mask(_mm512_loadu_si512(bytes), _mm512_set1_epi8(static_cast<char>(1u << bit)));
#elif defined(__AVX2__)
    // Up to the sign of each byte, of which `movemask` makes a bit.
    const __m128i up = _mm_cvtsi32_si128(static_cast<int>(7 - bit));
    const auto half = [&](const uint8_t *from) {
        const __m256i some = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
        return static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_epi8(_mm256_sll_epi16(some, up))));
    };
    return half(bytes + 32) << 32 | half(bytes);
#elif defined(COVEY_NEON)
    const uint8_t weights[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t weight = vld1q_u8(weights), which = vdupq_n_u8(static_cast<uint8_t>(1u << bit));
    const auto quarter = [&](const uint8_t *from) { return vandq_u8(vtstq_u8(vld1q_u8(from), which), weight); };
    const uint8x16_t low = vpaddq_u8(quarter(bytes), quarter(bytes + 16));
    const uint8x16_t high = vpaddq_u8(quarter(bytes + 32), quarter(bytes + 48));
    const uint8x16_t fours = vpaddq_u8(low, high);
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(fours, fours)), 0);
#else
    uint64_t word = 0;
    for (size_t i = 0; i < block; i += 8) {
        const uint64_t eight = from_bytes(bytes + i) >> bit & in_each_byte;
        // The product has each of the eight in its own bit of the highest byte; no two of its terms meet.
        word |= (eight * 0x0102040810204080u >> 56) << i;
    }
    return word;
#endif
}

// Doubles each of 64 bytes, and adds the bits of a word.
inline void shifted_in(uint8_t *bytes, uint64_t word) {
#if defined(__AVX512BW__)
    const __m512i old = _mm512_loadu_si512(bytes);
    const __m512i doubled = _mm512_add_epi8(old, old);
    _mm512_storeu_si512(bytes, _mm512_mask_add_epi8(doubled, word, doubled, _mm512_set1_epi8(1)));
#elif defined(__AVX2__)
    const __m256i which = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bits = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201u));
    const auto half = [&](uint8_t *to, uint64_t part) {
        const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(part)), which);
        const __m256i ones = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bits), bits);
        const __m256i old = _mm256_loadu_si256(reinterpret_cast<__m256i *>(to));
        // What compares as equal is -1.
        const __m256i sum = _mm256_sub_epi8(_mm256_add_epi8(old, old), ones);
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), sum);
    };
    half(bytes, word & 0xffffffffu);
    half(bytes + 32, word >> 32);
#elif defined(COVEY_NEON)
    const uint8_t weights[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t weight = vld1q_u8(weights);
    for (size_t i = 0; i < block; i += 16) {
        const uint8x8_t low = vdup_n_u8(static_cast<uint8_t>(word >> i & 0xff));
        const uint8x8_t high = vdup_n_u8(static_cast<uint8_t>(word >> (i + 8) & 0xff));
        const uint8x16_t ones = vtstq_u8(vcombine_u8(low, high), weight);
        const uint8x16_t old = vld1q_u8(bytes + i);
        // What tests as a one is -1.
        vst1q_u8(bytes + i, vsubq_u8(vaddq_u8(old, old), ones));
    }
#else
    for (size_t i = 0; i < block; i += 8) {
        // A copy of the byte in each of eight, of which each keeps one bit; what is not 0 then carries into the top.
        const uint64_t kept = (word >> i & 0xff) * in_each_byte & 0x8040201008040201u;
        const uint64_t ones = (kept + 0x7f * in_each_byte) >> 7 & in_each_byte;
        to_bytes((from_bytes(bytes + i) << 1 & 0xfe * in_each_byte) | ones, bytes + i);
    }
#endif
}

} // namespace
