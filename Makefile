# Turntable's tutorial: `make demo` is the whole way from assets to a mesh, a command a line.
# `make setup` needs Python 3.11 and no root; it does nothing when nothing changed.

PYTHON ?= python3.11
VENV   := .venv
RUN    := $(VENV)/bin/python -m
DEMO   ?= demo

# torch's threads spin while they wait for one another; on a machine that does anything else they wait for each other's turn.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: setup demo furniture-model test lint format clean-demo

setup: $(VENV)/installed

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt system-packages.txt
	@command -v $(PYTHON) >/dev/null || { echo "Turntable needs Python 3.11 (Blender's wheel is built for it); install it (Debian, Ubuntu: sudo apt-get install python3.11 python3.11-venv) or say PYTHON=/path/to/python3.11."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "$(PYTHON) is not Python 3.11, which Blender's wheel is built for; say PYTHON=/path/to/python3.11."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments; install its venv package (Debian, Ubuntu: sudo apt-get install python3.11-venv)."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[render,preprocess,browse,app,train,dev]'
	@# spandrel asks for torchvision, of which we use nothing. One that was built for another torch cannot be imported, and
	@# transformers, which imports it wherever it lies, then cannot either.
	@$(VENV)/bin/python -c 'import torchvision' 2>/dev/null || $(VENV)/bin/pip uninstall --quiet --yes torchvision
	@$(RUN) render.system
	@touch $@

# The whole way. Each line continues where it stopped: run `make demo` again after Ctrl-C; `make clean-demo` starts afresh.
demo: setup
	@echo "1/7  furniture: 10 models in the Objaverse cache's layout, one of each kind held out"
	$(RUN) datasets.procedural --out $(DEMO)/assets --count 10 --seed 0
	@echo "2/7  render: headless Blender, 12 views of each model"
	$(RUN) render.objaverse --cache $(DEMO)/assets --uids $(DEMO)/assets/splits/all.txt --gpus 0 --out $(DEMO)/captures --views 12 --resolution 128
	@echo "3/7  preprocess: captures into shards"
	$(RUN) preprocess.captures --captures $(DEMO)/captures --out $(DEMO)/shards
	@echo "4/7  check: every byte verified, and a contact sheet to look at"
	$(RUN) datasets.verify $(DEMO)/shards
	$(RUN) datasets.show $(DEMO)/shards --out $(DEMO)/contact-sheet.png
	@echo "5/7  train: the tiny model, five minutes"
	$(RUN) train.lrm --shards $(DEMO)/shards --uids $(DEMO)/assets/splits/train.txt --model tiny --out $(DEMO)/run --minutes 5 --input-view 0 --resume
	@echo "6/7  evaluate: on models it has never seen"
	$(RUN) train.evaluate --checkpoint $(DEMO)/run --shards $(DEMO)/shards --uids $(DEMO)/assets/splits/heldout.txt --training-uids $(DEMO)/assets/splits/train.txt --out $(DEMO)/report
	@echo "7/7  reconstruct: one held-out picture into a mesh"
	$(RUN) zipfile -e $(DEMO)/captures/$$(head -c 2 $(DEMO)/assets/splits/heldout.txt)/$$(head -n 1 $(DEMO)/assets/splits/heldout.txt).zip $(DEMO)/unseen
	$(RUN) model.reconstruct $(DEMO)/unseen/rgba/000.png --checkpoint $(DEMO)/run --out $(DEMO)/reconstruction --resolution 128 --frames 36
	@echo "Worth opening:"
	@echo "  $(DEMO)/contact-sheet.png               what was rendered"
	@echo "  $(DEMO)/run/curves.png                  how training went (tensorboard --logdir $(DEMO)/run)"
	@echo "  $(DEMO)/report/report.html              held-out models beside five baselines"
	@echo "  $(DEMO)/reconstruction/preview.png      the reconstruction; turntable.mp4 and mesh.glb beside it"

clean-demo:
	rm -rf $(DEMO)

# The model in model/weights, from assets to file (docs/training.md, "The model that comes with the project"): hours on a CPU.
# Each line continues where it stopped; objects that cannot be rendered are reported, and done without. OBJAVERSE is an Objaverse cache with splits/furniture-{train,dev,val}.txt and general.txt.
OBJAVERSE ?= objaverse
WORK      ?= runs/furniture-model
PROCESSES ?= 2
PROCEDURAL        ?= 300
GENERAL_MINUTES   ?= 33
FURNITURE_MINUTES ?= 22
SPLITS    := $(OBJAVERSE)/splits
TORCHRUN  := OMP_NUM_THREADS=1 $(RUN) torch.distributed.run --standalone --nproc-per-node=$(PROCESSES) -m
LEARNING  := --model mini --threads 1 --decoded-bytes 4e9 --empty 0 --solid 0.3 --dev-by solid --fill-spread 0.15 --light-spread 0.2 --average 0.998
RENDERING := --gpus 0 --workers-per-gpu $(PROCESSES) --resolution 256 --quality draft

furniture-model: setup
	mkdir -p $(WORK)
	cat $(SPLITS)/furniture-train.txt $(SPLITS)/furniture-dev.txt $(SPLITS)/furniture-val.txt > $(WORK)/furniture.txt
	$(RUN) render.objaverse --cache $(OBJAVERSE) --uids $(WORK)/furniture.txt --out $(WORK)/captures/furniture $(RENDERING) --views 24 || [ $$? = 1 ]  # 1: some objects failed, and are reported
	$(RUN) render.objaverse --cache $(OBJAVERSE) --uids $(SPLITS)/general.txt --out $(WORK)/captures/general $(RENDERING) --views 24 --samples 4 || [ $$? = 1 ]
	$(RUN) datasets.procedural --out $(WORK)/procedural --count $(PROCEDURAL) --seed 7
	$(RUN) render.objaverse --cache $(WORK)/procedural --uids $(WORK)/procedural/splits/all.txt --out $(WORK)/captures/procedural $(RENDERING) --views 12 --samples 4 || [ $$? = 1 ]
	for part in furniture general procedural; do $(RUN) preprocess.captures --captures $(WORK)/captures/$$part --out $(WORK)/shards/$$part --sizes 256 128 || exit 1; done
	$(RUN) datasets.merge $(WORK)/shards/general $(WORK)/shards/procedural --out $(WORK)/shards/first
	$(RUN) datasets.filter $(WORK)/shards/general --out $(WORK)/general.txt
	awk 'NR % 20 == 0 { print $$1 }' $(WORK)/general.txt > $(WORK)/general-dev.txt
	$(TORCHRUN) train.lrm --shards $(WORK)/shards/first --out $(WORK)/general --minutes $(GENERAL_MINUTES) --batch 8 $(LEARNING) --mirror \
	  --dev-uids $(WORK)/general-dev.txt --dev-every 500 --resume
	$(TORCHRUN) train.furniture --shards $(WORK)/shards/furniture --uids $(SPLITS)/furniture-train.txt --init $(WORK)/general --general $(WORK)/shards/first --general-share 0.5 \
	  --out $(WORK)/furniture --minutes $(FURNITURE_MINUTES) --steps 100000 --learning-rate 1e-3 --layer-decay 1 $(LEARNING) --dev-uids $(SPLITS)/furniture-dev.txt --dev-every 250 --patience 0 --no-blend --resume  # the bundled file was made before there were blends
	for model in general furniture; do $(RUN) train.export --checkpoint $(WORK)/$$model --shards $(WORK)/shards/furniture --level-uids $(SPLITS)/furniture-dev.txt \
	  --out $(WORK)/exported/$$model.safetensors --name turntable:$$model || exit 1; done
	$(RUN) train.evaluate --checkpoint $(WORK)/exported/general.safetensors $(WORK)/exported/furniture.safetensors --shards $(WORK)/shards/furniture --uids $(SPLITS)/furniture-val.txt \
	  --categories datasets/furniture.toml --training-uids $(WORK)/furniture/category-uids.txt --held-out-views 0 --out $(WORK)/report

test: setup lint
	$(RUN) pytest

lint: setup
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: setup
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .
