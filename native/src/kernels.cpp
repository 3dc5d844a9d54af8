// All kernels for the instruction set COVEY_ISA; compiled once for each, with the compiler's flags for it.
//
// Nothing here or below may define an inline function or a template outside of the unnamed namespace, nor use one of
// the standard library: the linker keeps one copy of those, maybe that with instructions that the processor lacks.

#include "kernels.hpp"

#include "kernels/bits.hpp"
#include "kernels/pull.hpp"
#include "kernels/rice.hpp"

#define COVEY_TEXT_(name) #name
#define COVEY_TEXT(name) COVEY_TEXT_(name)

const covey::Kernels covey::COVEY_ISA::kernels = {
    COVEY_TEXT(COVEY_ISA),
    rice_unary_bits,
    rice_encode,
    rice_decode,
    pull,
};
