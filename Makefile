# plinth: `make help` lists the targets.
# Asked when a recipe runs and not before: the first one may install Rust.
host    = $(shell PATH="$$PATH:$$HOME/.cargo/bin" rustc -vV 2>/dev/null | sed -n 's/^host: //p')
release = target/$(host)/release/plinth
cache   := .cache
# What the tests take from the network.
fetched := $(addprefix $(cache)/,sid trixie bookworm kubectl etcd registry busybox.tar)
export PATH := $(PATH):$(HOME)/.cargo/bin

.PHONY: help build fetch demo test sim fuzz check bench bench-boot install image boot node boottest
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

build: ## the static binary, target/<host>/release/plinth
	@tests/packages.sh build
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target $$(rustc -vV | sed -n 's/^host: //p')

fetch: $(fetched) $(cache)/image/wanted ## what tests and image take from the network, into .cache; with -j side by side

demo: build $(cache)/sid $(cache)/busybox.tar $(if $(CLUSTER),$(cache)/kubectl) ## three pods on a private containerd, looked at and cleaned up; KEEP=1 leaves them running, CLUSTER=1 joins an API server
	$(if $(CLUSTER),cargo build --locked --example apiserver)
	@$(if $(CLUSTER),images/demo-cluster.sh,images/demo.sh) $(release) $(cache)/sid $(if $(CLUSTER),$(cache)/kubectl target/debug/examples/apiserver,$(if $(KEEP),--keep))

test: $(fetched) $(cache)/image/wanted ## every test, and what was skipped; BOOT="day fails": of the boots in QEMU only those with such words in their names
	@tests/run.sh

sim: ## N seeds of the simulation: make sim N=10000
	SIM_RUNS=$(or $(N),1000) cargo test --release --test sim -- --nocapture

fuzz: ## each reader of text from outside, T seconds of random input: make fuzz T=600; needs a nightly Rust and cargo-fuzz
	@tests/fuzz/run.sh $(or $(T),600)

check: ## formatting, lints, import rule
	@tests/packages.sh build
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

bench: build $(cache)/sid ## the reference table with ours beside it, and what it is to be joined
	cargo build --locked --example apiserver
	@tests/bench.py $(release) $(cache)/sid

install: build ## binary, completions, man pages, configuration and unit below DESTDIR
	@images/install.sh $(release) "$(DESTDIR)"

bench-boot: build $(cache)/busybox.tar ## what a boot costs, beside its floor: the same kernel and a containerd that answers
	@tests/packages.sh image
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked -p plinth-init --target $(host)
	@images/fetch.sh images/packages $(cache)/image
	@tests/boot/bench.sh $(release) target/$(host)/release/plinth-init $(cache)/image target/boot/bench

image: build $(cache)/busybox.tar ## images/out: kernel, initrd, verified root, disk, UKI; MANIFESTS=dir and IMAGES=dir put your pods and OCI archives in
	@tests/packages.sh image
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked -p plinth-init --target $(host)
	@images/fetch.sh images/packages $(cache)/image
	@images/build.sh $(release) target/$(host)/release/plinth-init $(cache)/image images/out

node: ## images/out without QEMU, as root: its init and services in namespaces on this terminal; RUN='plinth status' runs that and ends
	@images/node.sh images/out $(RUN)

boottest: $(cache)/busybox.tar ## the image built twice and booted: tests/boot; CUTS=20 for every power cut
	@tests/boot/run.sh

boot: ## boots images/out in QEMU on this terminal, the web pod on http://127.0.0.1:8080; Ctrl-a x leaves
	@images/boot.sh images/out

$(cache)/image/wanted: images/packages ; @images/fetch.sh images/packages $(cache)/image
$(cache)/sid: ; @tests/packages.sh test && tests/fetch-deb.sh containerd sid $@
$(cache)/trixie: ; @tests/packages.sh test && tests/fetch-deb.sh containerd trixie $@
$(cache)/bookworm: ; @tests/packages.sh test && tests/fetch-deb.sh containerd bookworm $@
$(cache)/kubectl: ; @tests/packages.sh test && tests/fetch-deb.sh kubectl trixie $@
$(cache)/etcd: ; @tests/packages.sh test && tests/fetch-deb.sh etcd-server trixie $@
$(cache)/registry: ; @tests/fetch-deb.sh docker-registry - $@
$(cache)/busybox.tar: images/busybox-archive.sh ; @tests/packages.sh test && images/busybox-archive.sh $@ docker.io/library/busybox:1.35
