#!/bin/sh
# An installer like many: a program below PREFIX, its settings in /etc.
set -eu

PREFIX=/usr/local
if [ "${1:-}" = --prefix ]; then
    PREFIX=$2
fi

cat > "$PREFIX/bin/greet" <<'PROGRAM'
#!/bin/sh
. /etc/greet.conf
echo "$GREETING, ${1:-world}"
PROGRAM
chmod 755 "$PREFIX/bin/greet"
echo 'GREETING=Hello' > /etc/greet.conf
echo "installed greet below $PREFIX"
