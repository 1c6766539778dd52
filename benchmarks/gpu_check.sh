#!/usr/bin/env bash
# Checks and measures the CUDA backend on a machine with a GPU, within fifteen minutes on 16 cores; needs no internet.
#
#   benchmarks/gpu_check.sh [--out DIR] [--limit SECONDS] [PART...]
#
#   build         the core with LLMCORE_CUDA=ON, in place (nvcc, cmake, ninja, pybind11)
#   tests         the tests of kernels, models and training on the GPU
#   sanitizers    the small ones of them under compute-sanitizer: memcheck, racecheck, initcheck, synccheck
#   conformance   what each instruction wrapper gives, for the emulator to replay (DIR/conformance.bin)
#   kernels       times of the kernels, against torch and the device's copy bandwidth
#   products      times of GPT-2 124M's products, plain and with their epilogues, against cuBLAS through torch
#   ladder        times of each step on the way to the Hopper products (benchmarks/ladder)
#   training      losses of GPT-2 124M beside those of the CPU; times of training steps, against torch
#
# Without PART all of them, in this order. DIR (gpu_check by default) receives a log and a result for each part, and
# gpu_check.json with the whole; the table is printed at the end. Status 0: every part passed; 1: one failed or could
# not run here, and the table says why; 2: wrong arguments.
set -euo pipefail
cd "$(dirname "$0")/.."

all_parts=(build tests sanitizers conformance kernels products ladder training)
declare -A seconds_of=([build]=240 [tests]=100 [sanitizers]=120 [conformance]=60 [kernels]=60 [products]=90 [ladder]=90
    [training]=100)
refused=3 # status of a part that cannot run on this machine; its last line says why

refuse() {
    echo "$1"
    exit "$refused"
}

need() {
    command -v "$1" >/dev/null || refuse "$1 was not found on PATH"
}

need_device() {
    python3 - <<'PYTHON' || exit "$refused"
import sys
try:
    from llmcore import _core
    _core.check_device("cuda")
except (ImportError, ValueError) as error:
    print(error)
    sys.exit(1)
PYTHON
}

part_build() {
    need nvcc
    need cmake
    need ninja
    nvcc --version | tail -n 2
    python3 tools/dev_build.py --cuda ON
}

# What LLMCORE_MATMUL may ask of this device; the Hopper products are not the default before they have run.
hopper_products() {
    if nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -qx '9.0'; then echo sm90; else echo sm80; fi
}

part_tests() {
    need_device
    local workers=()
    if python3 -c "import xdist" 2>/dev/null; then workers=(-n 4); fi
    python3 -m pytest -q -m cuda tests/kernels tests/device "${workers[@]}"
    LLMCORE_MATMUL=$(hopper_products) python3 -m pytest -q -m cuda tests/kernels/test_matmul.py "${workers[@]}"
}

# All four at once: what takes long is the sanitizer's work on the host. Without the allocator's cache every tensor is an
# allocation of its own, whose ends they see.
part_sanitizers() {
    need_device
    need compute-sanitizer
    local tool status=0 small all
    small='python3 -m pytest -q -p no:cacheprovider -m "cuda and small"'
    all="$small tests/kernels && LLMCORE_MATMUL=$(hopper_products) $small tests/kernels/test_matmul.py"
    local -A process=()
    for tool in memcheck racecheck initcheck synccheck; do
        LLMCORE_MEMORY_CACHE=0 compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all \
            bash -c "$all" >"$out/$tool.log" 2>&1 &
        process[$tool]=$!
    done
    for tool in "${!process[@]}"; do
        if wait "${process[$tool]}"; then
            echo "$tool: clean"
        else
            status=1
            echo "$tool: failed, see $tool.log"
            tail -n 30 "$out/$tool.log"
        fi
    done
    return "$status"
}

part_conformance() {
    need nvcc
    need_device
    compgen -G "tests/cpp/conformance/*.cu" >/dev/null || refuse "tests/cpp/conformance has no sources"
    mkdir -p build
    nvcc -std=c++20 -O2 -gencode arch=compute_90a,code=sm_90a -I csrc -DLLMCORE_WITH_CUDA=1 -t 0 \
        tests/cpp/conformance/*.cu csrc/cuda/tensor_map.cpp -o build/conformance
    build/conformance record "$out/conformance.bin"
    build/conformance replay "$out/conformance.bin"
}

part_kernels() {
    need_device
    python3 -m benchmarks.gpu.kernels --json "$out/kernels.json"
}

part_products() {
    need_device
    LLMCORE_MATMUL=$(hopper_products) python3 -m benchmarks.gpu.products --json "$out/products.json"
}

part_ladder() {
    need nvcc
    need_device
    [ "$(hopper_products)" = sm90 ] || refuse "the ladder needs compute capability 9.0"
    mkdir -p build
    nvcc -std=c++20 -O3 -gencode arch=compute_90a,code=sm_90a -t 0 -DLLMCORE_WITH_CUDA=1 -I csrc -o build/ladder \
        benchmarks/ladder/*.cu csrc/cuda/matmul_sm90.cu csrc/cuda/matmul_choice.cpp csrc/cuda/tensor_map.cpp
    build/ladder 8192 8192 8192
    build/ladder 4096 4096 4096
    build/ladder 65536 2304 768
}

part_training() {
    need_device
    python3 -m benchmarks.gpu.training --json "$out/training.json"
    python3 -m benchmarks.gpu.loss_curve --json "$out/loss_curve.json"
}

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
}

wrong() {
    echo "gpu_check.sh: $1; --help shows what there is" >&2
    exit 2
}

is_part() {
    local part
    for part in "${all_parts[@]}"; do [ "$part" = "$1" ] && return 0; done
    return 1
}

out=gpu_check
limit=900
inside="" # set when this script runs itself for one part, under a time limit
parts=()
while [ $# -gt 0 ]; do
    case "$1" in
        --help | -h) usage && exit 0 ;;
        --out | --limit | --inside)
            [ $# -ge 2 ] || wrong "$1 needs a value"
            case "$1" in
                --out) out="$2" ;;
                --limit) limit="$2" ;;
                --inside) inside="$2" ;;
            esac
            shift
            ;;
        *) is_part "$1" || wrong "there is no part \"$1\" (parts: ${all_parts[*]})" && parts+=("$1") ;;
    esac
    shift
done
[[ "$limit" =~ ^[1-9][0-9]*$ ]] || wrong "--limit takes a number of seconds, got \"$limit\""
if [ -n "$inside" ]; then
    "part_$inside"
    exit
fi

[ ${#parts[@]} -gt 0 ] || parts=("${all_parts[@]}")
mkdir -p "$out"
out="$(cd "$out" && pwd)"
rm -f "$out/parts.tsv"
export PYTHONUNBUFFERED=1
for part in "${parts[@]}"; do
    left=$((limit - SECONDS))
    allowed=$((left < seconds_of[$part] ? left : seconds_of[$part]))
    begin=$SECONDS
    status=0
    if [ "$allowed" -lt 5 ]; then
        echo "no time was left for this part" >"$out/$part.log"
        status=124
    else
        timeout --kill-after 5 "$allowed" bash benchmarks/gpu_check.sh --out "$out" --inside "$part" \
            >"$out/$part.log" 2>&1 || status=$?
    fi
    case "$status" in
        0) verdict=passed ;;
        "$refused") verdict=refused ;;
        124 | 137) verdict="out of time" ;;
        *) verdict=failed ;;
    esac
    echo "$part: $verdict after $((SECONDS - begin)) s" >&2
    [ "$status" -eq 0 ] || tail -n 15 "$out/$part.log" >&2
    printf '%s\t%s\t%s\n' "$part" "$verdict" "$((SECONDS - begin))" >>"$out/parts.tsv"
done
python3 -m benchmarks.gpu.report "$out"
