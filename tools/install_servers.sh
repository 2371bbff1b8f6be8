#!/bin/sh
# Make sure that the tests can reach or start PostgreSQL, pgbouncer, MariaDB and Redis; install what is missing where that needs no question.
# The tests start the servers on their own: here only the binaries matter.
set -u
PATH="$PATH:/usr/sbin:/usr/local/sbin:/sbin"

has_postgresql() {
    [ -n "${QUERYCACHE_TEST_POSTGRESQL_URL:-}" ] && return 0
    command -v initdb >/dev/null && return 0
    for initdb in /usr/lib/postgresql/*/bin/initdb; do [ -x "$initdb" ] && return 0; done
    return 1
}

has_mariadb() {
    [ -n "${QUERYCACHE_TEST_MARIADB_URL:-}" ] && return 0
    command -v mariadbd >/dev/null && command -v mariadb-install-db >/dev/null
}

has_pgbouncer() {
    command -v pgbouncer >/dev/null
}

has_redis() {
    command -v redis-server >/dev/null
}

missing=""
has_postgresql || missing="$missing postgresql"
has_pgbouncer || missing="$missing pgbouncer"
has_mariadb || missing="$missing mariadb-server"
has_redis || missing="$missing redis-server"
[ -z "$missing" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing for the tests:$missing"
    apt-get update -qq </dev/null
    # shellcheck disable=SC2086  # one word per package
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing </dev/null && exit 0
fi

# Not an error here: a server may listen where the tests look first. They say so again, with the setting's name, if not.
echo "not found on this machine:$missing (the tests of these databases will fail)" >&2
echo "on Debian and Ubuntu: sudo apt-get install$missing" >&2
exit 0
