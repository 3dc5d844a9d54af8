// The Rice code of increasing indices, as covey/messages/codecs/rice.py has it.
#pragma once

#include "bits.hpp"

namespace {

constexpr int most_low_bits = 31;
constexpr uint64_t refused = ~static_cast<uint64_t>(0);

inline uint64_t bytes_of(uint64_t bits) { return bits / 8 + (bits % 8 != 0); }

// How many bits the unary parts of gaps take; `refused` if a gap is not in [0, 2**31).
uint64_t rice_unary_bits(const int64_t *gaps, size_t count, int k) {
    uint64_t total = count, seen = 0;
    for (size_t i = 0; i < count; ++i) {
        const auto gap = static_cast<uint64_t>(gaps[i]);
        seen |= gap;
        total += gap >> k;
    }
    return seen >> 31 ? refused : total;
}

// Writes the code to `length` zeros. Nothing is written beyond them, even if another thread changes the gaps meanwhile.
void rice_encode(const int64_t *gaps, size_t count, int k, uint8_t *out, size_t length) {
    const auto planes = static_cast<unsigned>(k);
    const size_t low_length = static_cast<size_t>(bytes_of(static_cast<uint64_t>(count) * planes));
    if (length < 1 + low_length) return;
    out[0] = static_cast<uint8_t>(k);
    uint8_t *low = out + 1, *high = low + low_length;
    const size_t high_length = length - 1 - low_length;
    uint64_t end = 0, word = 0;
    size_t at = 0;
    for (size_t begin = 0; begin < count; begin += block) {
        const size_t here = count - begin < block ? count - begin : block;
        int64_t those[block] = {};
        std::memcpy(those, gaps + begin, here * sizeof(int64_t));
        for (unsigned first = 0; first < planes; first += 8) {
            uint8_t bytes[block];
            for (size_t i = 0; i < block; ++i) bytes[i] = static_cast<uint8_t>(those[i] >> first & 0xff);
            for (unsigned plane = first; plane < first + 8 && plane < planes; ++plane) {
                const uint64_t row = planes - 1 - plane;
                add_bits(low, low_length, row * count + begin, gathered(bytes, plane - first));
            }
        }
        for (size_t i = 0; i < here; ++i) {
            end += static_cast<uint64_t>(those[i]) >> k;
            const size_t holder = static_cast<size_t>(end / 64) * 8;
            if (holder != at) {
                add_word(high, high_length, at, word);
                word = 0;
                at = holder;
            }
            word |= static_cast<uint64_t>(1) << end++ % 64;
        }
    }
    add_word(high, high_length, at, word);
}

// Writes `count` indices; whether the stream is the code of so many. All of them are then below 2**63.
bool rice_decode(const uint8_t *stream, size_t length, int64_t size, size_t count, int64_t *indices) {
    if (!length || stream[0] > most_low_bits) return false;
    const unsigned k = stream[0];
    const uint64_t low_bits = static_cast<uint64_t>(count) * k;
    if (bytes_of(low_bits) > length - 1) return false;
    const size_t low_length = static_cast<size_t>(bytes_of(low_bits)), high_length = length - 1 - low_length;
    const uint8_t *low = stream + 1, *high = low + low_length;
    // Bits follow the last one of the low bits, or more follows than fits below `size`.
    if (bits_at(low, low_length, low_bits)) return false;
    if (high_length > bytes_of(count + (static_cast<uint64_t>(size) >> k))) return false;
    uint64_t word = word_at(high, high_length, 0), sum = 0, end = 0;
    size_t at = 0;
    for (size_t begin = 0; begin < count; begin += block) {
        const size_t here = count - begin < block ? count - begin : block;
        uint32_t gaps[block] = {};
        for (unsigned first = 0; first < k; first += 8) {
            const unsigned some = k - first < 8 ? k - first : 8;
            uint8_t bytes[block] = {};
            for (unsigned row = first; row < first + some; ++row) {
                // Beyond the last block of a row, these are bits of the next one, and nobody looks at their bytes.
                shifted_in(bytes, bits_at(low, low_length, static_cast<uint64_t>(row) * count + begin));
            }
            for (size_t i = 0; i < block; ++i) gaps[i] = gaps[i] << some | bytes[i];
        }
        for (size_t i = 0; i < here; ++i) {
            while (!word) {
                at += 8;
                if (at >= high_length) return false;
                word = word_at(high, high_length, at);
            }
            end = static_cast<uint64_t>(at) * 8 + lowest(word);
            word &= word - 1;
            // The sum of the high parts up to an index is how many zeros stand before its one.
            const uint64_t before = begin + i;
            sum += gaps[i];
            indices[before] = static_cast<int64_t>(sum + before + ((end - before) << k));
        }
    }
    // The last byte has the last one, and no other follows.
    return high_length == (count ? bytes_of(end + 1) : 0) && !word;
}

} // namespace
