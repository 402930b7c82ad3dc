"""The sets of instructions that products are compiled for."""

from __future__ import annotations

import numba
from numba.core.codegen import get_host_cpu_features

from edgenetllm.errors import UserError

# vpermi2b (VBMI), vpexpandb (VBMI2), vpdpbusd (VNNI) on 64-byte vectors, and pext (BMI2).
AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512vbmi2", "avx512vnni", "bmi2")
CHOICES = ("auto", "avx512", "portable")


def features() -> set[str]:
    """The processor features that numba compiles for, in LLVM's words; NUMBA_CPU_FEATURES may give others."""
    flags = numba.config.CPU_FEATURES
    flags = get_host_cpu_features() if flags is None else flags
    return {flag[1:] for flag in flags.split(",") if flag.startswith("+")}


def compiles_avx512() -> bool:
    """True where numba compiles for a processor with all features in AVX512."""
    return features().issuperset(AVX512)


def available() -> set[str]:
    """The values of `instructions` that this processor runs, besides `auto`."""
    return {"avx512", "portable"} if compiles_avx512() else {"portable"}


def chosen(instructions: str) -> str:
    """The set that `instructions` stands for; `UserError` where it is unknown or the processor lacks it."""
    if instructions not in CHOICES:
        raise UserError(f"instructions is one of {', '.join(CHOICES)}, not {instructions}")
    if instructions == "auto":
        return "avx512" if compiles_avx512() else "portable"
    if instructions not in available():
        raise UserError(
            f"instructions={instructions} needs {', '.join(AVX512)}, which this processor lacks: use instructions=auto"
        )
    return instructions
