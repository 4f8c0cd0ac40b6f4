# Sallyport. `make` or `make help` lists the targets.
SHELL    := /bin/bash
GOTEST   := go run gotest.tools/gotestsum@v1.13.0 --format pkgname-and-test-fails --hide-summary=output --
# The race detector needs a C compiler. All else is compiled without, as what the
# tests build is, once.
RACE     := $(shell command -v gcc >/dev/null 2>&1 && echo -race)
RACETEST := $(if $(RACE),CGO_ENABLED=1 $(GOTEST) -race,$(GOTEST))
LINT     := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.6.2
# For one platform $$p, such as linux/arm64.
BUILD     = CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p\#*/} go build -trimpath -o bin/$${p/\//-}/
export CGO_ENABLED := 0

.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: ## build, start everything with a real API server, tell the story of one binding, leave it running
	@echo 'Building the sallyport command: seconds, or minutes the first time.'
	@go run ./cmd/sallyport up

down: ## stop what `make up` started and remove its folder
	@go run ./cmd/sallyport down

demo: ## the same story, every step checked, torn down at the end; ML=1: the one of machine learning, as root with containerd
ifdef ML
	@SALLYPORT_TEST_DEVCLUSTER=require SALLYPORT_E2E_CALLS=10000 go test -count=1 -timeout 20m -v -run TestFromTrainingToScoring ./e2e/ml
else
	@echo 'Building the sallyport command: seconds, or minutes the first time.'
	@go run ./cmd/sallyport demo
endif

test: ## unit tests, and tests on a real API server (on real nodes too, as root with containerd)
	@gofmt -l $$(git ls-files '*.go') | (! grep .) || { echo 'run gofmt -w on these files'; exit 1; }
	go vet ./...
	$(RACETEST) -timeout 40m ./...
	$(if $(RACE),$(GOTEST) -run Allocations ./agent/proxy ./gateway ./tunnel ./mlext/router) # which the race detector would count, too
	cd parity && $(GOTEST) -timeout 20m ./...
	cd installer && go vet ./... && $(RACETEST) -timeout 20m ./...
	cd bench && go vet ./...
	@$(MAKE) --no-print-directory test-azure

test-azure: ## Azure's SDKs, and Terraform's, against a real server; SALLYPORT_TEST_AZ=1: az itself too, some minutes
	cd azureclients && $(GOTEST) -timeout 20m ./...

bench: ## requests per second and CPU: direct, a bare relay, Sallyport
	cd bench && go run . 

lint: ## the linters of .golangci.yml
	go run $(LINT) run ./...
	cd installer && go run $(LINT) run ./...
	cd bench/scoring && go vet ./...

build: ## the binaries, into bin/; PLATFORMS=all: for every platform, into bin/<os>-<arch>/
ifeq ($(PLATFORMS),all)
	@for p in linux/amd64 linux/arm64; do \
	  echo "$$p: command line, server, agents"; $(BUILD) ./cmd/... || exit 1; \
	  (cd installer && $(subst -o bin/,-o ../bin/,$(BUILD))sallyport-installer .) || exit 1; done
	@for p in darwin/amd64 darwin/arm64 windows/amd64; do \
	  echo "$$p: command line"; $(BUILD) ./cmd/sallyport || exit 1; done
else
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/...
	cd installer && CGO_ENABLED=0 go build -trimpath -o ../bin/sallyport-installer .
endif

clean: ## remove bin/
	rm -rf bin

.PHONY: help up down demo test test-azure bench lint build clean
