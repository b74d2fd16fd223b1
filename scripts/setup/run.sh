#!/bin/sh
# Runs prepare.py under the first Python at hand; that one finds the Python to make .venv with.
for python in "$PYTHON" python3 python3.12 python3.11 /usr/bin/python3; do
    if [ -n "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))' >/dev/null 2>&1; then
        exec "$python" "$(dirname "$0")/prepare.py" "$@"
    fi
done
echo "No working Python found. Install Python 3.11 or 3.12 with venv and headers and run again" >&2
echo "(Debian, Ubuntu: apt install python3-venv python3-dev), or name one: make PYTHON=/path/to/python3.11" >&2
exit 1
