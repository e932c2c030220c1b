#!/bin/sh
# `make demo-emoji`: text to image from committed weights. A one-step student of the emoji teacher makes pictures
# of prompts that training never showed, beside its teacher's; evaluates both; writes the report.
# Takes a few minutes on two cores.
set -eu
: "${PYTHON:=python}"
RUN=runs/demo-emoji
PROMPTS=benchmarks/emoji_prompts.txt
rm -rf "$RUN"
mkdir -p runs
cp -r assets/emoji-text-student "$RUN"

"$PYTHON" sample.py --run "$RUN" --prompts "$PROMPTS" --n 100 --out "$RUN/student"
"$PYTHON" sample.py --run "$RUN" --prompts "$PROMPTS" --n 100 --teacher --guidance 2 --out "$RUN/teacher"
"$PYTHON" -m eval --run "$RUN" --prompts "$PROMPTS" --n 500
"$PYTHON" -m eval preference --run "$RUN" --prompts "$PROMPTS" --scores clipscore,word_match \
    --weights clipscore=assets/emoji-clip --weights word_match=assets/emoji-judge --against teacher
"$PYTHON" -m distill report "$RUN"
