"""The kernels that training time depends on, and what their machine code has to look like.

A kernel is found by a part of its name; every instantiation has to meet the expectation. No kernel at all, hot or not,
may spill. `registers` is the most a thread may use: more, and fewer warps run at a time than the kernel was written
for. An opcode stands for itself and its modifiers: the source asks for it, so the compiler must not have done
something else instead.
"""

from __future__ import annotations

from dataclasses import dataclass

LOCAL_MEMORY = ("LDL", "STL")


@dataclass(frozen=True)
class Expectation:
    """Attributes:
    registers: the most per thread.
    needs: opcodes that must occur.
    targets: the architectures that the kernel is compiled for.
    """

    registers: int
    needs: tuple[str, ...]
    targets: tuple[str, ...] = ("80", "90a")


HOT_KERNELS = {
    # Two blocks of 128 threads on a multiprocessor: 255 registers would still do.
    "matmul_mma_kernel": Expectation(255, ("HMMA.16816.F32.BF16", "LDSM.16", "LDGSTS.E.BYPASS.128", "STG.E")),
    # 384 threads share 65536 registers; setmaxnreg then moves them between the warpgroups. One entry for each design,
    # one for results that leave by TMA, one for those that do not.
    **{
        f"matmul_wgmma_kernelINS_10HopperTileILNS_8TeamworkE{teamwork}ELi{rows}ELi{columns}E": Expectation(
            168,
            (f"HGMMA.64x{columns}x16.F32.BF16", "UTMALDG.3D.MULTICAST", "USETMAXREG", "SYNCS.PHASECHK", "UCGABAR_WAIT"),
            ("90a",),
        )
        for teamwork, rows, columns in ((0, 128, 256), (1, 128, 192), (1, 128, 160), (1, 64, 256))
    },
    "12HopperOutput": Expectation(168, ("STSM.16.M88.4", "LDSM.16.M88.4", "UTMASTG.3D"), ("90a",)),
    "11FloatOutput": Expectation(168, ("STG.E.64", "LDG.E.STRONG.GPU", "UTMAREDG.3D.ADD"), ("90a",)),
    "matmul_simt_kernel": Expectation(255, ("FFMA", "LDS.128", "STS")),
    # Blocks of 128 threads, two on a multiprocessor.
    "attention_forward_mma_kernel": Expectation(
        255, ("HMMA.16816.F32.BF16", "LDSM.16.M88.4", "LDSM.16.MT88.4", "LDGSTS.E.BYPASS.128", "MUFU.EX2", "F2FP.BF16")
    ),
    "attention_backward_mma_kernel": Expectation(
        255, ("HMMA.16816.F32.BF16", "LDSM.16.M88.4", "LDSM.16.MT88.4", "LDGSTS.E.BYPASS.128", "MUFU.EX2", "F2FP.BF16")
    ),
    # Two blocks of 256 threads.
    "attention_forward_simt_kernel": Expectation(128, ("FFMA", "LDS.128", "LDGSTS.E.BYPASS.128", "MUFU.EX2")),
    "attention_backward_simt_kernel": Expectation(128, ("FFMA", "LDS.128", "LDGSTS.E.BYPASS.128", "MUFU.EX2")),
    # Bound by memory: enough threads must run at a time to keep it busy.
    "matmul_finish_parts_kernel": Expectation(64, ("LDG.E", "STG.E")),
    "sum_row_parts_kernel": Expectation(64, ("LDG.E", "STG.E")),
    "attention_decode_kernel": Expectation(168, ("LDG.E.128", "SHFL.BFLY", "MUFU.EX2")),
    "map_kernel": Expectation(40, ("LDG.E.128", "STG.E.128")),
    "cross_entropy_forward_kernel": Expectation(40, ("LDG.E",)),
    # Blocks of 1024 threads: 64 registers at most.
    "cross_entropy_both_kernel": Expectation(40, ("LDG.E", "STS", "LDS", "STG.E")),
    "cross_entropy_backward_kernel": Expectation(40, ("LDG.E", "STG.E")),
    "dropout_kernel": Expectation(40, ("LDG.E.128", "STG.E.128")),
    # Two blocks of 256 threads on a multiprocessor.
    "norm_forward_kernel": Expectation(128, ("LDG.E.EF.128", "STG.E.128")),
    "norm_backward_kernel": Expectation(128, ("LDG.E.EF.128", "STG.E.128")),
    "add_runs_kernel": Expectation(128, ("LDG.E.128", "STG.E.128")),
    "squared_norm_kernel": Expectation(64, ("LDG.E.128", "DFMA")),
    "rope_kernel": Expectation(64, ("LDG.E", "STG.E")),
    "step_kernel": Expectation(80, ("LDG.E.128", "STG.E.128")),
}
