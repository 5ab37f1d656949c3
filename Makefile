# Targets of the project; `make help` lists them. Everything that a target needs from Debian is installed by
# scripts/deps when it is missing and we are root; nothing needs buf but proto-lint, gen and check, which run it as a Go tool.

SHELL := /bin/bash
GO    ?= go
BIN   := bin

# What scripts/deps must find for the target; it is quick when all is there.
need = @scripts/deps $(1)

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
BUF     := $(GO) tool -modfile=../scripts/tools/go.mod buf

# The packages whose go:generate lines make committed files, and where these are.
GENERATED    := ./proto ./encoder/wayland/... ./netpolicy/datapath ./netpolicy/appguard
GENERATED_IN := proto encoder/wayland netpolicy/datapath netpolicy/appguard

# The binaries that need no C, with their packages.
PURE := phonehostd=./agent/cmd/phonehostd phonectl=./agent/cmd/phonectl phone-log=./runtime/cmd/phone-log

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## build phonehostd, phonectl, phone-log and phone-display into bin/
	$(call need,build)
	@mkdir -p $(BIN)
	@for p in $(PURE); do echo "go build $${p%%=*}"; \
	  CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/$${p%%=*} $${p#*=} || exit 1; done
	@echo "go build phone-display"
	@CGO_ENABLED=1 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/phone-display ./encoder/cmd/phone-display

.PHONY: cross
cross: ## build all binaries for linux/amd64 and linux/arm64 into bin/ARCH/, phone-display against Debian's headers for each
	$(call need,cross)
	@for arch in amd64 arm64; do mkdir -p $(BIN)/$$arch; for p in $(PURE); do echo "go build $$arch $${p%%=*}"; \
	  CGO_ENABLED=0 GOOS=linux GOARCH=$$arch $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/$$arch/$${p%%=*} $${p#*=} || exit 1; done; done
	@for arch in amd64 arm64; do echo "go build $$arch phone-display"; \
	  $(GO) run ./scripts/vm/cmd/vm cc $$arch $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/$$arch/phone-display ./encoder/cmd/phone-display || exit 1; done

.PHONY: image
image: ## build the testphone image for both architectures into out/testphone.tar
	$(call need,go)
	@mkdir -p out && $(GO) run ./scripts/testphone/cmd/mkimage -o out/testphone.tar

.PHONY: check
check: ## format, vet, staticcheck, generated code up to date, buf lint
	$(call need,check)
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "not gofmt'd:"; echo "$$out"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	@$(MAKE) --no-print-directory gen-diff proto-lint

.PHONY: test
test: ## all tests, with real containerd, runc, encoder, Wayland clients and browser
	$(call need,test)
	PHONEHOST_TEST_REQUIRE=all $(GO) test -count=1 -timeout 30m -p 2 ./...

# Words of this target: ROUNDS=500 (some 1100 reach every point), SEED=7 to go the way of an earlier run, ONLY='reset kill volume/renamed 1' to repeat a round.
.PHONY: soak
soak: ## kill the agent at every point of every operation and at random, and break what is around it: ROUNDS= rounds (all)
	$(call need,test)
	PHONEHOST_TEST_REQUIRE=all PHONEHOST_SOAK_ROUNDS=$(or $(ROUNDS),all) PHONEHOST_SOAK_SEED=$(SEED) PHONEHOST_SOAK_ONLY='$(ONLY)' \
	  $(GO) test -count=1 -timeout 12h -v -run '^TestSoak$$' ./scripts/soak

.PHONY: test-race
test-race: ## the tests of the packages with concurrency of their own, under the race detector
	$(call need,test)
	PHONEHOST_TEST_REQUIRE=all $(GO) test -count=1 -race -timeout 40m -p 2 ./agent/... ./encoder/...

# The packages with tests that run in virtual machines; those tests are called TestVM....
# Those that take longest begin first: two packages run at a time.
VM_LONG = ./scripts/e2e/ ./scripts/vm/machine/ ./runtime/container/
VM_PACKAGES = $(VM_LONG) $(filter-out $(VM_LONG),$(addprefix ./,$(sort $(dir $(shell git grep -l '^func TestVM' -- '*_test.go')))))
VM_TEST = @scripts/vm/test $(1) $(2) $(VM_PACKAGES)

.PHONY: test-vm
test-vm: ## the daily part of the tests in virtual machines, arm64 and amd64; builds the machines' parts first if they are missing
	$(call need,vm)
	$(call VM_TEST,subset,60m)

.PHONY: test-vm-all
test-vm-all: ## all tests in virtual machines: every kernel and boot variant
	$(call need,vm)
	$(call VM_TEST,all,180m)

.PHONY: vm
vm: ## build all that virtual machines are made of: kernels, modules, root file systems
	$(call need,vm)
	$(GO) run ./scripts/vm/cmd/vm build

# Words of this target: ARCH=arm64 KERNEL=6.1 KIND=kernel VARIANT=nopsi,cgroupv1 PROGRAMS=1 RUN='uname -a', each or none.
.PHONY: vm-shell
vm-shell: export PHONEHOST_VM_RUN = $(value RUN)
vm-shell: ## a shell in a virtual machine; ARCH=, KERNEL=, KIND=, VARIANT= say which, PROGRAMS=1 brings phonehost, RUN= is a command instead
	$(call need,vm)
	@mkdir -p $(BIN) && CGO_ENABLED=0 $(GO) build -o $(BIN)/vm ./scripts/vm/cmd/vm
	@$(BIN)/vm shell $(if $(ARCH),--arch=$(ARCH)) $(if $(KERNEL),--kernel=$(KERNEL)) $(if $(KIND),--kind=$(KIND)) \
	  $(if $(VARIANT),--variant=$(VARIANT)) $(if $(PROGRAMS),--programs) $(if $(value RUN),-- sh -c "$$PHONEHOST_VM_RUN")

.PHONY: vm-lock
vm-lock: ## take the newest packages of the suites in scripts/vm/lab.toml, and print what changed
	$(call need,vm)
	$(GO) run ./scripts/vm/cmd/vm lock

.PHONY: clean-vm
clean-vm: ## remove all that virtual machines are made of
	$(GO) run ./scripts/vm/cmd/vm clean

.PHONY: demo
demo: ## the whole path on this machine: create a phone, power it on, record and touch it through the tunnel
	$(call need,demo)
	@$(MAKE) --no-print-directory build image
	@scripts/demo/run

.PHONY: demo-clean
demo-clean: ## stop and remove all that `make demo` started
	@scripts/demo/clean

# ONLY='Storm|Reset' measures those alone.
.PHONY: bench
bench: ## measure the ratios of docs/bench.md against their named peers; ONLY= a regexp of benchmarks
	$(call need,bench)
	@$(GO) run ./scripts/bench -only '$(ONLY)'

.PHONY: gen
gen: ## make the generated code anew
	$(call need,check)
	@for p in $$($(GO) list -f '{{.ImportPath}}' $(GENERATED)); do $(GO) generate $$p || exit 1; done

.PHONY: gen-diff
gen-diff: gen ## fail when the committed generated code differs from what gen makes
	@git diff --exit-code -- $(GENERATED_IN) || { echo "generated code is out of date: run make gen and commit"; exit 1; }
	@new=$$(git ls-files --others --exclude-standard -- $(GENERATED_IN)); [ -z "$$new" ] || { echo "generated files are not committed:"; echo "$$new"; exit 1; }

.PHONY: bpf-stats
bpf-stats: ## print how many instructions of each BPF program the verifier looks at, and what packets cost; as root
	@$(GO) test -count=1 -v -run '^TestVerifiedInstructions$$' -bench Packets -benchtime 1000000x ./netpolicy/datapath | grep -E 'verified|ns/op|FAIL'

.PHONY: proto-lint
proto-lint: ## buf lint
	@cd proto && $(BUF) lint

.PHONY: fmt
fmt: ## gofmt and buf format
	gofmt -w $$(git ls-files '*.go')
	cd proto && $(BUF) format -w

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BIN) out
