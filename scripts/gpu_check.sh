#!/usr/bin/env bash
# Everything that needs a GPU, in one call of at most nine minutes: kernels, default training, and the tests marked gpu.
#
#   bash scripts/gpu_check.sh
#   PARTS="measure report" bash scripts/gpu_check.sh                          only these parts
#   DEVICE=cpu TRITON_INTERPRET=1 OPTIONS="sizes=3x2x8 cells=gru steps=2" bash scripts/gpu_check.sh   without a GPU
#
# Tables go to $OUT (runs/gpu_check by default), seven files at most, and are printed last. On a machine without rnnlab's
# dependencies and without a network, wheels of what it lacks can be in .whl/ of the project's root.
set -u
cd "$(dirname "$0")/.."
OUT="${OUT:-runs/gpu_check}"; DEVICE="${DEVICE:-cuda}"; OPTIONS="${OPTIONS:-}"
PARTS="${PARTS:-compile measure train contracts tests report}"
mkdir -p "$OUT"; OUT="$(cd "$OUT" && pwd)"
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}" TORCHINDUCTOR_COMPILE_THREADS=1
if ! python3 -c 'import rnnlab.config, hydra' 2>/dev/null; then  # rnnlab is not installed
  if compgen -G '.whl/*.whl' >/dev/null; then
    packages="$(mktemp -d)"
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$packages" .whl/*.whl || exit
    export PYTHONPATH="$packages${PYTHONPATH:+:$PYTHONPATH}"
  fi
  export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
  if [ ! -e rnnlab/conf ]; then ln -s ../conf rnnlab/conf; trap 'rm -f rnnlab/conf' EXIT; fi  # as an installation does
fi
failed=0
part() {  # NAME SECONDS COMMAND...: run a part under a time limit, if it is requested
  local name=$1 limit=$2 code; shift 2
  case " $PARTS " in *" $name "*) ;; *) return ;; esac
  SECONDS=0
  timeout -s INT -k 10 "$limit" "$@" >"$OUT/$name.txt" 2>&1; code=$?
  [ "$code" = 0 ] || [ "$code" = 5 ] || failed=1  # 5: pytest has found no test
  echo "== $name: exit $code after $SECONDS s" | tee -a "$OUT/$name.txt"
}
check() { local name=$1 limit=$2; shift 2
  part "$name" "$limit" python3 scripts/gpu_check.py "$name" "folder=$OUT" "device=$DEVICE" "seconds=$((limit - 15))" $OPTIONS "$@"; }
case " $PARTS " in *" compile "* | *" measure "*) rm -f "$OUT/results.jsonl" ;; esac
[ "$DEVICE" != cuda ] || nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,memory.total --format=csv,noheader
check compile "${COMPILE_LIMIT:-110}"
check measure "${MEASURE_LIMIT:-155}"
check train 60
# torch.compile takes half a minute a cell, so tests of every cell do without it; `tests` has those of compiling.
every=(tests/test_contracts.py tests/engine/test_triton.py)
pytests() { local name=$1 limit=$2; shift 2; part "$name" "$limit" python3 -m pytest -m gpu -q -p no:cacheprovider "$@"; }
TORCHDYNAMO_DISABLE=1 pytests contracts 145 -n 14 --dist worksteal "${every[@]}"
pytests tests 50 -n 8 tests "${every[@]/#/--ignore=}"
check report 20
for name in contracts tests train; do [ ! -e "$OUT/$name.txt" ] || { echo; tail -n 8 "$OUT/$name.txt" | cut -c1-300; }; done
[ ! -e "$OUT/report.txt" ] || { echo; cat "$OUT/report.txt"; }
exit "$failed"
