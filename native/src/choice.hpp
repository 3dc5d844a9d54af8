// The choice of an instruction set.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace covey {

// The names of those that this processor has, the fastest last.
std::vector<std::string> supported();

// Take the kernels of one of these; whether it is one.
bool use(const std::string &isa);

// The kernels in use: the fastest, unless others were taken.
const Kernels &kernels();

} // namespace covey
