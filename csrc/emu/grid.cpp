#include "emu/grid.h"

#include "emu/global_race.h"
#include "emu/machine.h"

namespace llmcore::emu {

void wait_for_previous_kernel() {
    if (race_detection()) self().clock.kernels = kernels_before();
}

}  // namespace llmcore::emu
