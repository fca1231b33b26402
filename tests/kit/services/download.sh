#!/usr/bin/env bash
# Downloads what the servers of the tests and the demo are installed from, into the caches of Maven and Go.
# A download that fails is repeated by the installation, which reports it.
cd "$(dirname "$0")" || exit
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mvn -q -B -f kafka/pom.xml dependency:copy-dependencies "-DoutputDirectory=$scratch" >/dev/null 2>&1
(cd ferretdb && go mod download) >/dev/null 2>&1
exit 0
