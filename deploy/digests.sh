#!/bin/sh
# Prints the images that docker-compose.yml names, each with the digest that its tag has now, as variables of Compose.
set -eu
cd "$(dirname "$0")/.."
sed -n 's/.*\${\([A-Z]*_IMAGE\):-\([^}]*\)}.*/\1 \2/p' docker-compose.yml | sort -u | while read -r name image; do
  digest=$(docker buildx imagetools inspect "$image" --format '{{json .Manifest.Digest}}' | tr -d '"')
  case $digest in
    sha256:*) echo "$name=$image@$digest" ;;
    *) echo "the digest of $image is '$digest'; one that begins with sha256: is accepted" >&2 && exit 1 ;;
  esac
done
