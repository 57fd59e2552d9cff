// Which instruction sets this build has and this processor can run.

#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace geluless {

std::vector<std::string> built_isas();      // best first; "portable" is always the last
std::vector<std::string> available_isas();  // reported by the processor and enabled by the system

// Null when it is not built, or not reported. A hypervisor may hide what the processor can do: GELULESS_TRUST_ISA=<name> in
// the environment takes one by trust (an illegal instruction ends the process if that was wrong).
const Kernels* find_kernels(const std::string& isa);

}  // namespace geluless
