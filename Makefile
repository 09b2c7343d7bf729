# Each target sets up its own environment, such as `make demo`, `make study`, `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA_DIR ?= datasets
# Folder of the run of `make demo` or `make segment`.
WORKDIR ?=
# For `make segment`: folder of the images, the run or published model, and name of the
# store of the images.
IMAGES ?=
MODEL := $(or $(WORKDIR),tabletop/batch_norm_implicit)
NAME ?= $(notdir $(abspath $(MODEL)))_$(notdir $(abspath $(IMAGES)))
TEST_PROCESSES ?= 2
STUDY_WORKDIR ?= experiments/study_shapes
PAPER_WORKDIR ?= experiments/paper

# With large pages, XLA's CPU buffers are not mapped and zeroed again at each step.
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1
export TF_CPP_MIN_LOG_LEVEL := 3

# ViT whose features the demo, the study and `make paper` use.
ENCODER := vit_small_patch14_dinov2.lvd142m
VIT := $(DATA_DIR)/weights/$(ENCODER).safetensors

.PHONY: demo study properties pixels blocks discovery tabletop paper segment test lint
.PHONY: clean study_tabletop slot_count
.PHONY: weights shapes scenes small_scenes scanned tetrominoes small_shapes

# Train CONFIG in the folder RUN, evaluate it over GRID, and write a report.
define train_and_show
	$(BIN)/python -m sanorm_jax.main --config=configs/$(CONFIG).py --workdir=$(RUN) \
		--config.data_dir=$(DATA_DIR)
	$(BIN)/python -m sanorm_jax evaluate --workdir=$(RUN) $(GRID)
	$(BIN)/python -m sanorm_jax report --workdir=$(RUN)
endef
RUN = experiments/$@

# Run the study CONFIG in the folder RUN.
define run_study
	$(BIN)/python -m sanorm_jax.study --config=configs/$(CONFIG).py \
		--workdir=$(RUN) --config.base.data_dir=$(DATA_DIR)
endef

$(VENV)/.run: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[extract]"
	touch $@

$(VENV)/.scenes: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --editable ".[extract,scenes]"
	touch $@

$(VENV)/.test: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

weights: $(VENV)/.run
	$(BIN)/python -m feature_extraction.fetch_weights --data_dir=$(DATA_DIR)

# Scenes of 3 to 6 objects, for evaluation up to 10, and their features.
shapes: weights
	$(BIN)/python -m data.prepare --dataset=shapes --data_dir=$(DATA_DIR) \
		--image_size=128 --splits=train:2000,validation:480 \
		--objects=train:3-6,validation:3-10
	$(BIN)/python -m feature_extraction.extract --dataset=shapes --encoder=$(ENCODER) \
		--weights=$(VIT) --input_size=224 --components=48 \
		--data_dir=$(DATA_DIR)

demo: CONFIG := shapes
demo: RUN := $(or $(WORKDIR),experiments/shapes)
demo: GRID := --num_slots=7,11,15,20 --max_objects=6,10
demo: shapes
	$(train_and_show)

study: CONFIG := study_shapes
study: RUN := $(STUDY_WORKDIR)
study: shapes
	$(run_study)

# Scenes of 1 to 6 objects and their features, for property prediction.
scenes: weights
	$(BIN)/python -m data.prepare --dataset=shapes --name=scenes \
		--data_dir=$(DATA_DIR) --image_size=128 \
		--splits=train:10000,validation:960 --objects=train:1-6,validation:1-6
	$(BIN)/python -m feature_extraction.extract --dataset=shapes --name=scenes \
		--encoder=$(ENCODER) --weights=$(VIT) --input_size=224 \
		--components=96 --data_dir=$(DATA_DIR)

properties: CONFIG := shapes_property_prediction
properties: GRID := --num_slots=7,14 --max_objects=3,6
properties: scenes
	$(train_and_show)

# Small scenes of 1 to 3 objects, for property prediction from pixels.
small_scenes: $(VENV)/.run
	$(BIN)/python -m data.prepare --dataset=shapes --name=scenes_64 \
		--data_dir=$(DATA_DIR) --image_size=64 \
		--splits=train:40000,validation:960 --objects=train:1-3,validation:1-3

pixels: CONFIG := shapes_property_prediction_pixels
pixels: GRID := --num_slots=4,8 --max_objects=1,3
pixels: small_scenes
	$(train_and_show)

# Scenes of scanned objects, with a split of unseen objects and floors.
scanned: $(VENV)/.scenes weights
	$(BIN)/python -m data.prepare --dataset=tabletop --data_dir=$(DATA_DIR) \
		--image_size=128 --splits=train:2000,validation:480,validation_unseen:240 \
		--objects=train:3-6,validation:3-10,validation_unseen:3-6
	$(BIN)/python -m feature_extraction.extract --dataset=tabletop \
		--encoder=$(ENCODER) --weights=$(VIT) --input_size=224 --components=96 \
		--data_dir=$(DATA_DIR)

tabletop: CONFIG := tabletop
tabletop: GRID := --num_slots=7,11,15,20 --num_iterations=8 --max_objects=6,10
tabletop: scanned
	$(train_and_show)

study_tabletop: CONFIG := study_tabletop
study_tabletop: scanned
	$(run_study)

slot_count: CONFIG := study_slot_count
slot_count: scanned
	$(run_study)

tetrominoes: $(VENV)/.run
	$(BIN)/python -m data.prepare --dataset=blocks --data_dir=$(DATA_DIR) \
		--splits=train:60000,validation:480 --objects=train:3-3,validation:3-5

blocks: CONFIG := blocks
blocks: GRID := --num_slots=4,5,7,11 --max_objects=3,5
blocks: tetrominoes
	$(train_and_show)

# CLEVR-like scenes of 32 x 32 pixels, for object discovery.
small_shapes: $(VENV)/.run
	$(BIN)/python -m data.prepare --dataset=shapes --name=shapes_32 \
		--data_dir=$(DATA_DIR) --image_size=32 \
		--splits=train:20000,validation:480 --objects=train:3-6,validation:3-6

discovery: CONFIG := shapes_object_discovery
discovery: GRID := --num_slots=7,9,11 --num_iterations=3,5
discovery: small_shapes
	$(train_and_show)

# The paper's three tasks, scaled down, with four normalizations each. Running it again
# resumes.
paper: shapes scenes tetrominoes
	$(BIN)/python -m sanorm_jax.paper --config=configs/paper.py \
		--workdir=$(PAPER_WORKDIR) --config.data_dir=$(DATA_DIR) \
		$(if $(SEEDS),--config.seeds="($(SEEDS),)")

# Without WORKDIR, the published model that is best at natural images, and the weights of
# its ViT. WEIGHTS: file of the ViT's weights, if the features of the run come from one.
segment: $(VENV)/.run
segment: $(if $(WORKDIR)$(WEIGHTS)$(wildcard $(VIT:.safetensors=.json)),,weights)
	$(if $(IMAGES),,$(error IMAGES: not set; run make segment IMAGES=DIR))
	$(BIN)/python -m data.prepare --dataset=images --source=$(IMAGES) --name=$(NAME) \
		--like=$(MODEL) --data_dir=$(DATA_DIR)
	$(BIN)/python -m feature_extraction.extract --dataset=images --name=$(NAME) \
		--like=$(MODEL) --data_dir=$(DATA_DIR) $(if $(WEIGHTS),--weights=$(WEIGHTS))
	$(BIN)/python -m sanorm_jax segment --workdir=$(MODEL) \
		--dataset=$(NAME) --data_dir=$(DATA_DIR) \
		$(if $(NUM_SLOTS),--num_slots=$(NUM_SLOTS))

# With large pages, memory that tests free would not return to the system.
test: export GLIBC_TUNABLES :=
test: lint
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/ty check --quiet --python $(VENV)

clean:
	rm -rf $(VENV)
