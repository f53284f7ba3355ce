# What a developer runs. Go is all that `make run` needs; README says what `make
# test` wants beside it. What those packages do not have it builds.

STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.0
KO := github.com/google/ko@v0.19.1
export CGO_ENABLED ?= 0

.PHONY: build run test check helm-lint e2e soak bench fuzz parts image manifests clean

build: ## bin/dockbell, static
	go build -o bin/dockbell ./cmd/dockbell

# The example refers to its secrets by these names. They are for this machine
# alone: the example listens on the loopback address.
run: export REGISTRY_TOKEN ?= dev
run: export HUB_TOKEN ?= dev
run: export ALIYUN_TOKEN ?= dev
run: export AZURE_TOKEN ?= dev
run: export DOCKBELL_TOKEN ?= dev
run: build ## serve config.example.yaml
	bin/dockbell serve --config config.example.yaml --allow-commands

test: check e2e ## everything

check: helm-lint ## format, vet, staticcheck, unit tests with the race detector, on a real PostgreSQL too
	@unformatted=$$(gofmt -l cmd k8s rules trigger test); if [ -n "$$unformatted" ]; then echo "gofmt these: $$unformatted"; exit 1; fi
	go vet ./...
	cd test && go vet ./...
	go run $(STATICCHECK) ./...
	cd test && go run $(STATICCHECK) ./...
	cd test && go run ./cmd/parts postgres -- env CGO_ENABLED=1 go -C .. test -race ./...

helm-lint: ## the chart, its table of values and the plain manifests
	cd test && go test -count=1 ./chart

parts: ## build the servers that the end-to-end tests talk to, once
	cd test && go run ./cmd/parts build

e2e: parts ## end-to-end tests on a real control plane and registry
	cd test && go test -count=1 ./...

SOAK ?= Killed|UnderLoad|Disk|ReadOnly|Damaged|Clock|Wait|Database|Replica
soak: parts ## the tests of faults at full length: kills, full disks, lost databases, 100,000 runs that wait
	cd test && DOCKBELL_SOAK=1 go test -count=1 -timeout 2h -v -run '$(SOAK)' ./e2e

bench: ## measure beside what dockbell cannot be faster than
	cd test && go run ./cmd/bench
	go test -run '^$$' -bench 'Match|Parse' -benchmem ./rules ./trigger/source

FUZZTIME ?= 30s
fuzz: ## run each fuzz test for FUZZTIME
	@for package in $$(go list ./...); do \
		for name in $$(go test -list '^Fuzz' $$package | grep '^Fuzz'); do \
			echo "$$package $$name"; go test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
		done; \
	done

# No Docker is needed, nor anything that emulates another machine. Who is logged
# in to the registry, as by `docker login`, may push.
IMAGE ?= ghcr.io/dockbell/dockbell
VERSION ?= $(shell git describe --tags --always --dirty)
image: ## push the image to $(IMAGE) as $(VERSION), for amd64 and arm64
	KO_DOCKER_REPO=$(IMAGE) VERSION=$(VERSION) go run $(KO) build --bare --tags $(VERSION) --sbom none ./cmd/dockbell

manifests: ## manifests/dockbell.yaml for those without Helm, and the chart's table of values
	cd test && go test -count=1 ./chart -update

clean:
	rm -rf bin
