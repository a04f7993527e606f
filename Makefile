# make demo | detector | footage-checkpoint | study | recipes | test | fuzz | torture | gpu-check | lint | clean. All goes into
# .venv; PYTHON chooses the interpreter.
SHELL := /bin/bash -o pipefail
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
DETECTOR := .venv-detector

# The demo's own folder, so that it never touches a user's files.
SAMPLE := data/sample
# Networks of 1.8 and of 0.9 million weights in place of 14: what a laptop trains in a minute.
SMALL := --depth 2 --embed-dim-ratio 16
SHORT := --depth 1 --embed-dim-ratio 16 --epochs 3 --stride 9 --batch-size 32
TRAIN := $(PY) run_poseformer.py --data-dir $(SAMPLE) --no-eval $(SHORT) --wandb-mode disabled --overwrite
REAL := --keypoints tests/data/real_footage/cam02_mp_heavy.npy --size 1080x1920 --fps 60
EVALUATE := $(PY) run_poseformer.py --data-dir $(SAMPLE) --evaluate last_epoch.bin

.PHONY: demo detector footage-checkpoint study recipes figs test fuzz torture gpu-check lint format clean

# The main job, end to end: raw files, npz, a mixture, training, evaluation; real footage to a film.
# So small a network is fastest on one thread: both inputs train side by side.
demo: $(VENV)/.installed
	$(PY) data/make_sample.py --data-dir $(SAMPLE) --frames 36
	$(PY) data/prepare_data_h36m.py --data-dir $(SAMPLE)
	for detector in vitpose pct moganet transpose; do \
		$(PY) data/prepare_2d_estimation.py --data-dir $(SAMPLE) --detector $$detector \
			| tail -n 2 || exit; \
	done
	$(PY) data/merge.py --data-dir $(SAMPLE) --strategy average
	$(MAKE) --no-print-directory -j 2 demo-vitpose demo-merge_average
	cat $(SAMPLE)/checkpoint/vitpose/evaluation.txt $(SAMPLE)/checkpoint/merge_average/evaluation.txt
	$(PY) lift.py --data-dir $(SAMPLE) $(REAL) --output $(SAMPLE)/real.mp4 --export $(SAMPLE)/real.bvh

demo-%:
	OMP_NUM_THREADS=1 $(TRAIN) --keypoints $* -c $(SAMPLE)/checkpoint/$* 2>&1 | sed 's/^/$*: /'
	OMP_NUM_THREADS=1 $(EVALUATE) -c $(SAMPLE)/checkpoint/$* > $(SAMPLE)/checkpoint/$*/evaluation.txt

# MediaPipe, for `lift.py VIDEO`, in an environment of its own: it needs a NumPy below 2, and a
# Python from 3.10 to 3.12.
detector: $(DETECTOR)/.installed

$(DETECTOR)/.installed:
	@rm -rf $(DETECTOR)
	@for python in $(PYTHON) python3.12 python3.11 python3.10; do \
		$$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null && \
			exec $$python -m venv $(DETECTOR); \
	done; echo "error: MediaPipe needs a Python from 3.10 to 3.12: make detector PYTHON=…" >&2; exit 2
	$(DETECTOR)/bin/pip install --disable-pip-version-check -q mediapipe==0.10.21 "numpy<2" \
		tqdm==4.70.1 imageio-ffmpeg==0.8.1
	@touch $@

# The network of lift.py for anybody's video, from synthetic people alone; see checkpoint/README.md.
footage-checkpoint: $(VENV)/.installed
	$(PY) run_poseformer.py --recipe footage --precision fp32 --wandb-mode disabled --overwrite \
		$(SMALL) -frame-kept 1 -coeff-kept 5 -c $(SAMPLE)/checkpoint/footage
	$(PY) checkpoint/without_optimizer.py $(SAMPLE)/checkpoint/footage/last_epoch.bin \
		checkpoint/footage.bin

# The study, small, on the demo's data: a smaller network, two seeds. It goes on where it was
# stopped.
study: $(VENV)/.installed
	test -f $(SAMPLE)/data_2d_h36m_transpose.npz || $(MAKE) demo
	for detector in vitpose pct moganet transpose; do \
		$(PY) data/prepare_2d_estimation.py --data-dir $(SAMPLE) --detector $$detector \
			--keep-conf | tail -n 1 || exit; \
	done
	for strategy in manual average weighted_average best_joint fitted; do \
		$(PY) data/merge.py --data-dir $(SAMPLE) --strategy $$strategy | tail -n 2 || exit; \
	done
	mkdir -p $(SAMPLE)/study
	$(PY) data/evaluate_2d.py --data-dir $(SAMPLE) --figures $(SAMPLE)/study \
		> $(SAMPLE)/study/errors_2d.txt
	$(PY) study.py --study $(SAMPLE)/study/runs --data-dir $(SAMPLE) --gpus cpu,cpu --seeds 0 1 $(SHORT) \
		--keypoints vitpose pct transpose concatenate merge_average merge_fitted

# The published recipe against the default one, on the demo's data, with a smaller network; the
# figure of the README.
recipes: $(VENV)/.installed
	test -f $(SAMPLE)/data_2d_h36m_vitpose.npz || $(MAKE) demo
	$(PY) benchmarks/recipes.py --study $(SAMPLE)/recipes --data-dir $(SAMPLE) \
		--recipes published default --seeds 0 1 --epochs 4 --stride 5 $(SMALL)

# The README's pictures, from what the demo, the recipes and the study leave.
figs: $(VENV)/.installed
	test -f $(SAMPLE)/recipes/recipes.png || $(MAKE) recipes
	test -f $(SAMPLE)/study/runs/study.png || $(MAKE) study
	$(PY) data/visualize.py --data-dir $(SAMPLE) --subject S9 --action Greeting --fps 25 \
		--size 1020x300 --output figs/estimate.gif
	$(PY) lift.py --data-dir $(SAMPLE) $(REAL) --output figs/footage.png
	cp $(SAMPLE)/recipes/recipes.png $(SAMPLE)/study/runs/study.png figs/

# Files of tests side by side, one for each core, each with one thread.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --dist loadfile

# Strange files against each of seven readers of foreign files: make fuzz CASES=15000
CASES := 3000
fuzz: $(VENV)/.installed-dev
	CASES=$(CASES) SEED=$${SEED:-$$RANDOM} OMP_NUM_THREADS=1 $(PY) -m pytest -n auto tests/files/test_fuzz.py

# On a machine with a GPU: the checks and figures for which the tests have none, in ten minutes.
# PY=python takes an environment that has PyTorch and NumPy already.
gpu-check:
	$(PY) benchmarks/gpu.py

# Ten minutes of kills and signals; a short form is part of the tests.
torture: $(VENV)/.installed-dev
	$(PY) tests/torture.py

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PY) -m pip check

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DETECTOR) $(SAMPLE)

# A stamp is written only after everything is installed, so an interrupted install is done again.
$(VENV)/.installed: requirements.txt | $(PY)
	$(PY) -m pip install --disable-pip-version-check -q -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(PY) -m pip install --disable-pip-version-check -q -r requirements-dev.txt
	@touch $@

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: $(PYTHON) is older than 3.10; choose another: make PYTHON=python3.12 …" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 2; }
