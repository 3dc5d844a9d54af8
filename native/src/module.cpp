// What Python sees. Arrays are looked at here; kernels get pointers and lengths, and run without the GIL.

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "choice.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

template <typename T> using Given = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T> using Changed = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T> using Made = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

// Of nothing that is larger do 64 bits hold the products and sums of kernels for certain.
constexpr std::int64_t most = std::int64_t{1} << 31;

template <typename T> Made<T> array(std::unique_ptr<T[]> numbers, std::size_t count) {
    T *data = numbers.get();
    nb::capsule owner(data, [](void *all) noexcept { delete[] static_cast<T *>(all); });
    numbers.release();
    return Made<T>(data, {count}, owner);
}

std::optional<Made<std::uint8_t>> rice_encode(Given<std::int64_t> gaps, int k) {
    const std::size_t count = gaps.shape(0);
    if (k < 0 || k > 31 || count > static_cast<std::uint64_t>(most)) return std::nullopt;
    std::unique_ptr<std::uint8_t[]> out;
    std::size_t length = 0;
    {
        nb::gil_scoped_release released;
        const covey::Kernels &kernels = covey::kernels();
        const std::uint64_t unary = kernels.rice_unary_bits(gaps.data(), count, k);
        const std::uint64_t low = static_cast<std::uint64_t>(count) * static_cast<unsigned>(k);
        const std::uint64_t bytes = 1 + (low + 7) / 8 + unary / 8 + (unary % 8 != 0);
        if (unary <= static_cast<std::uint64_t>(most) * 64 && bytes <= std::numeric_limits<std::size_t>::max()) {
            length = static_cast<std::size_t>(bytes);
            out = std::make_unique<std::uint8_t[]>(length);
            kernels.rice_encode(gaps.data(), count, k, out.get(), length);
        }
    }
    if (!out) return std::nullopt;
    return array(std::move(out), length);
}

std::optional<Made<std::int64_t>> rice_decode(Given<std::uint8_t> stream, std::int64_t size, std::int64_t count) {
    const std::size_t length = stream.shape(0);
    if (size < 0 || size > most || count < 0 || count > most) return std::nullopt;
    // An index takes a bit at least: nobody makes us allocate more by naming a count.
    if (static_cast<std::uint64_t>(count) / 8 > length) return std::nullopt;
    std::unique_ptr<std::int64_t[]> indices;
    bool good = false;
    {
        nb::gil_scoped_release released;
        indices = std::make_unique_for_overwrite<std::int64_t[]>(static_cast<std::size_t>(count));
        good = covey::kernels().rice_decode(stream.data(), length, size, static_cast<std::size_t>(count), indices.get());
    }
    if (!good) return std::nullopt;
    return array(std::move(indices), static_cast<std::size_t>(count));
}

bool pull(Changed<float> total, Given<float> own, Given<std::int64_t> indices, Given<float> values, float weight) {
    const std::size_t size = total.shape(0), count = indices.shape(0);
    if (own.shape(0) != size || values.shape(0) != count) return false;
    nb::gil_scoped_release released;
    return covey::kernels().pull(total.data(), own.data(), size, indices.data(), values.data(), count, weight);
}

} // namespace

NB_MODULE(_native, module) {
    module.def("isas", &covey::supported);
    module.def("isa", [] { return std::string(covey::kernels().isa); });
    module.def("use", &covey::use, "isa"_a);
    module.def("rice_encode", &rice_encode, "gaps"_a.noconvert(), "k"_a);
    module.def("rice_decode", &rice_decode, "stream"_a.noconvert(), "size"_a, "count"_a);
    module.def("pull", &pull, "total"_a.noconvert(), "own"_a.noconvert(), "indices"_a.noconvert(),
               "values"_a.noconvert(), "weight"_a);
}
