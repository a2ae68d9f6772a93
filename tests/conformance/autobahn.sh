#!/bin/bash
# Autobahn TestSuite (fuzzing client) against a ws:// echo server.
#
#   autobahn.sh ws://127.0.0.1:26001/ [quick|deflate-quick|deflate|all|CASE,CASE,...] [outdir]
#
#   quick    groups 1-7 9 10  (301 cases: framing, ping/pong, fragments, UTF-8, close, limits)
#   deflate  groups 12 13     (216 cases: permessage-deflate; many minutes)
#   deflate-quick             (72 of those: messages up to 8 KiB; the CI set)
#   all      everything       (default; 517 cases)
#   or Autobahn's own patterns, comma separated: 6.*,7.9.*,12.1.1
#
# Prints, per group, how many cases were OK / NON-STRICT / INFORMATIONAL /
# FAILED / UNIMPLEMENTED (and how many closed wrongly: FAILED in
# behaviorClose counts as failed too), then the failed cases' ids.
# Exit 0: nothing failed.  1: something failed.  2: could not run.
# AUTOBAHN_PARSE=1: run nothing, print an earlier run's OUTDIR.
# AUTOBAHN_STRICT=1: NON-STRICT counts as failed too.
# AUTOBAHN_NON_STRICT_MAX=N, AUTOBAHN_SILENT_MAX=N: more than N such cases fail the run.
# AUTOBAHN_REQUIRE_DEFLATE=1: UNIMPLEMENTED counts as failed too.
#
# The suite runs on Python 2.7 only. AUTOBAHN_PYTHON names one; without it a python2.7 in the PATH
# is taken, or one of pyenv's. The script installs the suite on first use (about 40 s; exact
# versions in autobahn-requirements.txt; needs a C compiler) into AUTOBAHN_HOME (target/autobahn).
set -u
main() {
here=$(cd "$(dirname "$0")" && pwd)
url=${1:-}
set=${2:-all}
[ -n "$url" ] || { sed -n '2,/^set -u/p' "$0" | sed '$d'; exit 2; }
home=${AUTOBAHN_HOME:-$here/../../target/autobahn}
out=${3:-$(mktemp -d "${TMPDIR:-/tmp}/autobahn-report.XXXXXX")}
mkdir -p "$out"
out=$(cd "$out" && pwd)

py2=
for p in "${AUTOBAHN_PYTHON:-}" python2.7 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7.*/bin/python; do
  if [ -n "$p" ] && "$p" -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' 2>/dev/null; then py2=$p; break; fi
done
if [ ! -x "$home/venv/bin/wstest" ]; then
  [ -n "$py2" ] || { echo "autobahn: needs a Python 2.7 (name it: AUTOBAHN_PYTHON=.../bin/python)" >&2; exit 2; }
  mkdir -p "$home"
  echo "autobahn: installing into $home/venv" >&2
  "$py2" -m pip install -q --target "$home/virtualenv" 'virtualenv==20.15.1' 2>&1 | grep -v DEPRECATION >&2
  PYTHONPATH="$home/virtualenv" "$py2" -m virtualenv -q "$home/venv" &&
  "$home/venv/bin/pip" install -q -r "$here/autobahn-requirements.txt" 2>&1 | grep -v DEPRECATION >&2
  [ -x "$home/venv/bin/wstest" ] || { echo "autobahn: the install failed" >&2; exit 2; }
fi

case $set in
  quick) cases='1.*,2.*,3.*,4.*,5.*,6.*,7.*,9.*,10.*' ;;
  deflate) cases='12.*,13.*' ;;
  deflate-quick)
    cases=$(for g in 12.1 12.2 12.3 12.4 12.5 13.1 13.2 13.3 13.4 13.5 13.6 13.7; do
      for c in 1 2 3 4 5 6; do printf '%s.%s,' $g $c; done; done)
    cases=${cases%,} ;;
  all) cases='*' ;;
  *) cases=$set ;;
esac
json=$(printf '%s' "$cases" | sed 's/[^,]*/"&"/g')
cat >"$out/spec.json" <<EOF
{"outdir": "$out/report", "servers": [{"agent": "testee", "url": "$url"}],
 "cases": [$json], "exclude-cases": [], "exclude-agent-cases": {}}
EOF
start=$(date +%s.%N)
if [ -n "${AUTOBAHN_PARSE:-}" ]; then rc=0; else
( cd "$out" && timeout "${AUTOBAHN_TIMEOUT:-3600}" "$home/venv/bin/wstest" -m fuzzingclient -s "$out/spec.json" ) >"$out/wstest.log" 2>&1
rc=$?
fi
end=$(date +%s.%N)
python3 - "$out" "$url" "$set" "$rc" "$start" "$end" <<'EOF'
import json, os, re, sys
out, url, which, rc, start, end = sys.argv[1:]
try:
    cases = json.load(open(os.path.join(out, "report", "index.json")))["testee"]
except Exception as e:
    print("autobahn: no report (%s; wstest exit %s); see %s/wstest.log" % (e, rc, out))
    sys.exit(2)
strict = os.environ.get("AUTOBAHN_STRICT") == "1"
need = os.environ.get("AUTOBAHN_REQUIRE_DEFLATE") == "1"
kinds = ["OK", "NON-STRICT", "INFORMATIONAL", "FAILED", "UNIMPLEMENTED"]
groups, failed, nonstrict, slow = {}, [], [], []
for case, r in cases.items():
    b, c = r["behavior"], r["behaviorClose"]
    if b == "UNCLEAN" or b.startswith("WRONG"):
        b = "FAILED"
    if b not in kinds:
        b = "FAILED"
    if b != "UNIMPLEMENTED" and c not in ("OK", "INFORMATIONAL", "UNIMPLEMENTED"):
        failed.append(case + "(close:" + c + ")")
        b = "FAILED"
    elif b == "FAILED" or (need and b == "UNIMPLEMENTED"):
        failed.append(case)
    if b == "NON-STRICT":
        nonstrict.append(case)
    g = int(case.split(".")[0])
    groups.setdefault(g, dict.fromkeys(kinds, 0))[b] += 1
    slow.append((r.get("duration", 0), case))
key = lambda c: [int(x) for x in re.findall(r"\d+", c)]
print("autobahn %s  set=%s  cases=%d  wall=%.1fs" % (url, which, len(cases), float(end) - float(start)))
print("%-6s %6s %10s %13s %6s %13s" % ("group", "OK", "NON-STRICT", "INFORMATIONAL", "FAILED", "UNIMPLEMENTED"))
tot = dict.fromkeys(kinds, 0)
for g in sorted(groups):
    for k in kinds:
        tot[k] += groups[g][k]
    print("%-6d %6d %10d %13d %6d %13d" % tuple([g] + [groups[g][k] for k in kinds]))
print("%-6s %6d %10d %13d %6d %13d" % tuple(["total"] + [tot[k] for k in kinds]))
if nonstrict:
    print("non-strict: " + " ".join(sorted(nonstrict, key=key)))
if failed:
    print("failed: " + " ".join(sorted(failed, key=key)))
silent = [c for c, r in cases.items() if r["behavior"] in ("OK", "NON-STRICT") and r.get("remoteCloseCode") is None
          and int(c.split(".")[0]) in (3, 4, 5, 6, 7)]
if silent:
    print("cut without a close code (allowed, but says nothing to the client): %d of groups 3-7" % len(silent))
slow.sort(reverse=True)
print("slowest: " + ", ".join("%s %.1fs" % (c, d / 1000.0) for d, c in slow[:3]))
print("report: %s/report/index.html" % out)
if rc != "0":
    print("autobahn: wstest ended with %s before it was done" % rc)
over = [name for name, cases in (("NON_STRICT", nonstrict), ("SILENT", silent))
        if len(cases) > int(os.environ.get("AUTOBAHN_%s_MAX" % name) or 1000)]
if over:
    print("autobahn: more cases than AUTOBAHN_%s_MAX allows" % over[0])
sys.exit(1 if failed or over or rc != "0" or (strict and nonstrict) else 0)
EOF
exit $?
}
main "$@"
