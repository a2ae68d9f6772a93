#!/usr/bin/env bash
# Debian's Java libraries, and the clients in $BUILT/java.
set -euo pipefail
cd "$(dirname "$0")"
command -v javac >/dev/null || ../../../scripts/apt-install.sh default-jdk-headless
../../../scripts/apt-install.sh libjetty9-java libjetty9-extra-java libnetty-java libtomcat9-java libokhttp-java
javac -cp '/usr/share/java/*' -d "$BUILT/java" ./*.java
