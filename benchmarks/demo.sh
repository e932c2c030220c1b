#!/bin/sh
# `make demo`: distil the digits teacher, sample student and teacher, evaluate both, write the report.
# Takes a few minutes on two cores. FROM_SCRATCH=1 trains the teacher first.
set -eu
: "${PYTHON:=python}" "${FROM_SCRATCH:=0}"
RUN=runs/demo
TEACHER=assets/digits-teacher
rm -rf "$RUN"

if [ "$FROM_SCRATCH" = 1 ]; then
    rm -rf runs/demo-teacher
    "$PYTHON" train.py configs/digits/teacher.yaml --run_dir runs/demo-teacher
    TEACHER=runs/demo-teacher/export
fi
"$PYTHON" train.py configs/digits/uni_instruct.yaml --run_dir "$RUN" --teacher.path "$TEACHER"
"$PYTHON" sample.py --run "$RUN" --n 100 --out "$RUN/student"
"$PYTHON" sample.py --run "$RUN" --n 100 --teacher --out "$RUN/teacher"
"$PYTHON" -m eval --run "$RUN"
"$PYTHON" -m distill report "$RUN"
