"""Wavelet transforms: the coefficients of PyWavelets, and the inverse."""

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from covey.decentralized.sharing.wavelets import WaveletTransform

WAVELETS = ["haar", "sym2", "db3", "bior2.2", "coif1", "rbio3.9", "db8"]
LENGTHS = [1, 2, 3, 4, 7, 16, 31, 32, 33, 47, 48, 49, 64, 100, 127, 501, 1000]


@pytest.mark.parametrize("wavelet", WAVELETS)
@pytest.mark.parametrize("length", LENGTHS)
def test_the_coefficients_and_the_way_back_are_those_of_pywavelets(wavelet, length):
    generator = torch.Generator().manual_seed(length)
    for level in range(pywt.dwt_max_level(length, pywt.Wavelet(wavelet).dec_len) + 1):
        transform = WaveletTransform(wavelet, level, length)
        vectors = torch.randn(2, length, dtype=torch.float64, generator=generator)
        wanted = pywt.wavedec(vectors.numpy(), wavelet, mode="symmetric", level=level)
        assert transform.bands == [band.shape[-1] for band in wanted]
        for forward in (transform.forward, transform.forward_by_torch):
            assert np.allclose(forward(vectors), np.concatenate(wanted, axis=-1), atol=1e-10)
        coefficients = torch.randn(2, transform.size, dtype=torch.float64, generator=generator)
        bands = np.split(coefficients.numpy(), np.cumsum(transform.bands)[:-1], axis=-1)
        back = pywt.waverec(bands, wavelet, mode="symmetric")[:, :length]
        for inverse in (transform.inverse, transform.inverse_by_torch):
            assert np.allclose(inverse(coefficients), back, atol=1e-10)


@pytest.mark.parametrize("wavelet", ["haar", "sym2", "sym3", "db3", "db5"])
def test_rotations_lose_no_more_digits_than_sums(wavelet):
    transform = WaveletTransform(wavelet, 4, 5000)
    vector = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    exact = transform.forward_by_torch(vector.double())
    rotated = transform.forward(vector)
    assert transform._tangents
    transform._tangents = []
    added_up = transform.forward(vector)
    assert not torch.equal(rotated, added_up)
    assert torch.dist(rotated, exact) < 2 * torch.dist(added_up, exact)


ANY = {
    "wavelet": st.sampled_from(pywt.wavelist(kind="discrete")),
    "level": st.integers(0, 6),
    "length": st.integers(1, 700),
    "seed": st.integers(0, 1000),
}


@given(**ANY)
@settings(max_examples=40, deadline=None)
def test_there_and_back_is_the_vector_whatever_its_length(wavelet, level, length, seed):
    transform = WaveletTransform(wavelet, level, length)
    assert transform.level <= level
    vector = torch.randn(length, generator=torch.Generator().manual_seed(seed))
    coefficients = transform.forward(vector)
    assert coefficients.dtype == torch.float32
    assert len(coefficients) == transform.size >= length
    # The filters of the discrete Meyer wavelet are cut off, so that it loses about half a percent by itself.
    tolerance = 1e-2 if wavelet == "dmey" else 1e-4
    assert torch.dist(transform.inverse(coefficients), vector) <= tolerance * vector.norm()


@given(**ANY)
@settings(max_examples=40, deadline=None)
def test_settled_coefficients_are_those_of_the_vector_they_mean(wavelet, level, length, seed):
    transform = WaveletTransform(wavelet, level, length)
    any_ones = torch.randn(transform.size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    settled = any_ones.clone()
    transform.project(settled)
    assert torch.allclose(
        transform.inverse(settled), transform.inverse(any_ones), atol=0.1 if wavelet == "dmey" else 1e-6
    )
    if wavelet != "dmey":
        assert torch.allclose(settled, transform.forward(transform.inverse(any_ones)), atol=1e-6)


def test_it_is_exact_to_float_rounding_and_linear():
    transform = WaveletTransform("sym2", 4, 89_834)
    assert transform.size == 89_843
    x, y = torch.randn(2, 89_834, generator=torch.Generator().manual_seed(1))
    assert (transform.inverse(transform.forward(x)) - x).abs().max() < 1e-6 * x.abs().max()
    together = transform.forward(2 * x - 3 * y)
    assert torch.allclose(together, 2 * transform.forward(x) - 3 * transform.forward(y), atol=1e-5)


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_many_vectors_at_once_are_each_transformed(shape):
    transform = WaveletTransform("db3", 2, 77)
    vectors = torch.randn(*shape, 77)
    coefficients = transform.forward(vectors)
    assert coefficients.shape == (*shape, transform.size)
    assert transform.inverse(coefficients).shape == vectors.shape
    assert torch.allclose(transform.forward_by_torch(vectors), coefficients, atol=1e-5)
    assert torch.allclose(transform.inverse_by_torch(coefficients), vectors, atol=1e-5)
    for vector, found in zip(vectors.view(-1, 77), coefficients.view(-1, transform.size), strict=True):
        assert torch.allclose(transform.forward(vector), found, atol=1e-6)


def test_a_short_vector_is_halved_less_often():
    assert WaveletTransform("sym2", 4, 47).level == 3
    assert WaveletTransform("sym2", 4, 48).level == 4
    assert WaveletTransform("sym2", 4, 2).level == 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_it_works_on_a_gpu():
    transform = WaveletTransform("sym2", 4, 1001)
    vector = torch.randn(1001)
    coefficients = transform.forward(vector.cuda())
    assert torch.allclose(coefficients.cpu(), transform.forward(vector), atol=1e-5)
    transform.project(coefficients)
    assert torch.allclose(transform.inverse(coefficients).cpu(), vector, atol=1e-5)
