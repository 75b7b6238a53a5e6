# Holdfast. `make demo` shows the main job; `make test` is what CI runs.
GO            ?= go
BIN           := bin
BUILD         := build
GOLANGCI      := $(BIN)/golangci-lint
GOLANGCI_VER  := v2.15.0
# An S3 store with conditions and Object Lock, run by tests.
VERSITYGW     := $(BIN)/versitygw
VERSITYGW_VER := v1.8.0
# A real key service, run by make test-kms alone: it takes minutes to build.
VAULT         := $(BIN)/vault

# What the demo needs: QEMU, and what builds the test guest's disk.
DEMO_PACKAGES := qemu-system-x86 qemu-utils seabios e2fsprogs fdisk cpio zstd grub-pc-bin grub-common
# What the tests need besides: the NBD peers and their tools.
TEST_PACKAGES := qemu-block-extra nbdkit libnbd-bin python3-libnbd fio fuse3 $(LIBVIRT_PACKAGES) $(POSTGRES_PACKAGES)
# A libvirt daemon, which tests start in namespaces of their own.
LIBVIRT_PACKAGES := libvirt-daemon-system libvirt-clients dnsmasq-base iproute2
# A PostgreSQL server, which tests of the manager start on a socket of their own.
POSTGRES_PACKAGES := postgresql

# What make recover-long needs besides.
RECOVER_PACKAGES := postgresql-15 dash

# What runs the emulators of the object stores; a Node.js that is there already, of whatever origin, does too.
NODE_PACKAGES := $(if $(and $(shell command -v node),$(shell command -v npm)),,nodejs npm)
# npm writes this file last: it is as old as what is installed.
NPM_STAMP     := test/emulators/node_modules/.package-lock.json

# The linter vets, once; and a hundred test programs are linked without what a debugger reads: two minutes of a processor.
TEST          := $(GO) test -vet=off -ldflags=-w

export CGO_ENABLED = 0
GOFLAGS_BUILD := -trimpath -ldflags=-s\ -w

.PHONY: all build demo deps deps-demo emulators guest test test-kms kms-server check unit lint fmt race fuzz sim chaos recover-long sites-long runs-long bench clean help

all: build

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

build: ## build bin/holdfast
	$(GO) build $(GOFLAGS_BUILD) -o $(BIN)/holdfast ./cmd/holdfast

demo: deps-demo build guest ## protect two guests, lose the site, boot them from the store alone
	$(BIN)/holdfast demo --image $(BUILD)/guest/ledger.raw

guest: ## build the test guest's disk image
	guest/build.sh $(BUILD)/guest

deps-demo: ## install what the demo needs (Debian packages)
	./.ci/install $(DEMO_PACKAGES)

deps: emulators ## install what demo and tests need (Debian packages, emulators)
	./.ci/install $(DEMO_PACKAGES) $(TEST_PACKAGES)

emulators: $(NPM_STAMP) $(VERSITYGW) ## install the object stores that tests start

$(NPM_STAMP): test/emulators/package-lock.json
	./.ci/install $(NODE_PACKAGES)
	npm ci --prefix test/emulators --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

$(VERSITYGW):
	GOBIN=$(CURDIR)/$(BIN) $(GO) install github.com/versity/versitygw/cmd/versitygw@$(VERSITYGW_VER)

# One package with guests and one without at a time; those that keep time, alone. All are run, whatever fails.
test: deps build guest check ## everything CI runs: checks, unit, simulation, peers, real guests (some 40 minutes)
	@failed=0; \
	$(TEST) -timeout 30m -p 1 $(TESTFLAGS) $$(cat .ci/guest-packages) & guests=$$!; \
	$(TEST) -timeout 30m -p 1 $(TESTFLAGS) $$($(GO) list ./... | grep -v -x -F -f .ci/unit-packages -f .ci/guest-packages -f .ci/alone-packages) || failed=1; \
	wait $$guests || failed=1; \
	$(TEST) -timeout 30m -p 1 $(TESTFLAGS) $$(cat .ci/alone-packages) || failed=1; \
	exit $$failed

test-kms: kms-server ## the key service driver against a real Vault
	$(GO) test -count=1 -tags kmsreal -run Real ./internal/kms/vault ./internal/cli

kms-server: $(VAULT) ## build the Vault that test-kms starts

$(VAULT): test/emulators/vault/main.go test/emulators/vault/go.mod test/emulators/vault/go.sum
	cd test/emulators/vault && $(GO) build $(GOFLAGS_BUILD) -o $(CURDIR)/$@ .

check: fmt lint unit ## format, vet, lint, floors, documents, unit tests (some 3 minutes)

fmt:
	@out=$$(gofmt -l cmd guest internal test); if [ -n "$$out" ]; then echo "gofmt: $$out"; exit 1; fi

lint: $(GOLANGCI)
	$(GOLANGCI) run ./...

$(GOLANGCI):
	GOBIN=$(CURDIR)/$(BIN) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VER)

unit: ## the packages that need no real parts
	$(TEST) $(TESTFLAGS) $$(cat .ci/unit-packages)

race: ## unit tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race $$(cat .ci/unit-packages) ./internal/nbd/... ./internal/iofilter/... ./internal/drva/...

sim: ## the cut simulation at length: make sim HOLDFAST_SIM_N=1000000
	$(GO) test -count=1 -timeout 60m -v ./test/sim/...

chaos: deps guest ## real guests under N faults (200) drawn from SEED: about 40 minutes
	HOLDFAST_CHAOS_N=$(or $(N),200) HOLDFAST_CHAOS_SEED=$(SEED) $(GO) test -count=1 -timeout 4h -v ./test/chaos

recover-long: deps guest ## whole recoveries over every store and platform and with PostgreSQL; killed in every step and operation
	./.ci/install $(RECOVER_PACKAGES)
	guest/build.sh $(BUILD)/guest postgres
	HOLDFAST_RECOVER_LONG=1 $(GO) test -count=1 -timeout 60m -v -run TestKilledAnywhere ./internal/recovery
	HOLDFAST_RECOVER_LONG=1 $(GO) test -count=1 -timeout 60m -v -run 'TestKilled|TestCancelled|TestFullDisk' ./test/recover
	HOLDFAST_RECOVER_LONG=1 $(GO) test -count=1 -timeout 90m -v -tags recoverlong -run 'TestMatrix|TestPostgres|TestKilledBesideALedger' ./test/recover

sites-long: deps guest ## two sites and their managers: there, home again, and a disaster known from the store alone
	HOLDFAST_SITES_LONG=1 $(GO) test -count=1 -timeout 60m -v ./test/sites

runs-long: ## the step journal at length: N games (2000) of its model, 1000 steps one after the other
	HOLDFAST_RUNS_GAMES=$(or $(N),2000) HOLDFAST_RUNS_SEED=$(SEED) HOLDFAST_RUNS_STEPS=1000 $(GO) test -count=1 -timeout 4h -v -run 'TestModel|TestSequence|TestKilledEverywhere' ./internal/msa/runs

fuzz: ## every decoder, FUZZTIME each (default 30s)
	.ci/fuzz $(or $(FUZZTIME),30s)

bench: deps build guest ## side by side with the peers; writes build/bench.json
	$(GO) run ./test/bench -out $(BUILD)/bench.json $(BENCHFLAGS)

clean: ## remove what was built
	rm -rf $(BIN) $(BUILD)
