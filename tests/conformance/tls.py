"""TLS of gateways, judged by sslyze, and by tlsfuzzer's scripts for TLS 1.3 if a checkout is given.

    tls.py OUT_FOLDER CERTIFICATES_FOLDER SERVER=PORT… [TLSFUZZER]

A SERVER is a gateway with the certificate rsa, p256 or ed25519; mutual has an RSA certificate too, and wants one of each client.
Exit 0: nothing but what is known. 1: something else. What is known of tlsfuzzer, and why, is in tlsfuzzer.toml.
"""
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib

HERE = pathlib.Path(__file__).parent
SUITES = {
    "tls_1_2_cipher_suites": {
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"},
    "tls_1_3_cipher_suites": {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"},
    "ssl_2_0_cipher_suites": set(), "ssl_3_0_cipher_suites": set(), "tls_1_0_cipher_suites": set(), "tls_1_1_cipher_suites": set(),
}
SCANS = ["sslv2", "sslv3", "tlsv1", "tlsv1_1", "tlsv1_2", "tlsv1_3", "compression", "early_data", "openssl_ccs", "fallback",
         "heartbleed", "robot", "reneg", "ems"]
# What has to be there or not, by scan and field.
FACTS = {
    ("tls_compression", "supports_compression"): False, ("tls_1_3_early_data", "supports_early_data"): False,
    ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection"): False, ("heartbleed", "is_vulnerable_to_heartbleed"): False,
    ("tls_fallback_scsv", "supports_fallback_scsv"): True, ("session_renegotiation", "supports_secure_renegotiation"): True,
    ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos"): False,
    ("tls_extended_master_secret", "supports_ems_extension"): True,
}
SECONDS_MAX = 300


def sslyze(port, out):
    """The complaints about the scans of sslyze."""
    report = out / "sslyze.json"
    command = [pathlib.Path(sys.executable).with_name("sslyze"), "--mozilla_config=disable", *(f"--{scan}" for scan in SCANS),
               f"--json_out={report}", f"127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_MAX)
    (out / "sslyze.txt").write_text(done.stdout + done.stderr)
    if not report.exists():
        return [f"sslyze made no report: {done.stderr[-500:]}"]
    scans = json.loads(report.read_text())["server_scan_results"][0]["scan_result"]
    wrong = []
    for scan, suites in SUITES.items():
        accepted = {one["cipher_suite"]["name"] for one in scans[scan]["result"]["accepted_cipher_suites"]}
        if accepted != suites:
            wrong.append(f"{scan}: {sorted(accepted)}")
    for (scan, field), fact in FACTS.items():
        if (got := scans[scan]["result"][field]) is not fact:
            wrong.append(f"{scan}: {field} is {got}")
    robot = scans["robot"]["result"]["robot_result"]
    return wrong if robot.startswith("NOT_VULNERABLE") else [*wrong, f"robot: {robot}"]


def options(script, known, ports, certificates):
    """The options of a script: its server, and the client's certificate."""
    if key := known["client_certificate"].get(script.name):
        return ["-p", ports["mutual"], "-k", certificates / f"{key}.key", "-c", certificates / f"{key}.pem", "-s", known["client_schemes"]]
    return ["-p", ports[known["server_certificate"].get(script.name, "rsa")]]


def conversations(script, options, out, checkout):
    """The names of the conversations that did not end as the script expects; None if the script has made no summary."""
    done = subprocess.run([sys.executable, script, "-h", "127.0.0.1", *options], capture_output=True, text=True,
                          timeout=SECONDS_MAX, env={**os.environ, "PYTHONPATH": str(checkout)})
    (out / f"{script.stem}.txt").write_text(done.stdout + done.stderr)
    if not re.search(r"^TOTAL: \d+$", done.stdout, re.M):
        return None
    behind = done.stdout.partition("\nFAILED:\n")[2]
    return set(re.findall(r"^\t'(.*)'$", behind, re.M))


def tlsfuzzer(ports, certificates, out, checkout):
    """The complaints about the scripts."""
    known = tomllib.loads((HERE / "tlsfuzzer.toml").read_text())
    scripts = sorted(checkout.glob("scripts/test-tls13-*.py"))
    if not scripts:
        return [f"no scripts in {checkout}"]
    scripts = [script for script in scripts if script.name not in known["left_out"]]
    patterns = {one["script"]: one["names"] for one in known["known"]}
    wrong = [f"tlsfuzzer.toml names {name}, which is not there" for name in patterns.keys() - {script.name for script in scripts}]
    run = lambda script: conversations(script, options(script, known, ports, certificates), out, checkout)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for script, failed in zip(scripts, pool.map(run, scripts)):
            if failed is None:
                wrong.append(f"{script.name}: no summary, see {out / script.stem}.txt")
                continue
            unknown = [name for name in failed if not any(re.fullmatch(p, name) for p in patterns.get(script.name, []))]
            print(f"{script.name}: {len(failed)} known" if not unknown else f"{script.name}: {len(unknown)} new", flush=True)
            wrong += [f"{script.name}: {name}" for name in sorted(unknown)]
    return wrong


def main():
    out, certificates = map(pathlib.Path, sys.argv[1:3])
    ports = dict(word.split("=") for word in sys.argv[3:] if "=" in word)
    checkouts = [word for word in sys.argv[3:] if "=" not in word]
    out.mkdir(parents=True, exist_ok=True)
    wrong = sslyze(ports["rsa"], out)
    print("sslyze: as it should be" if not wrong else f"sslyze: {len(wrong)} findings")
    for checkout in checkouts:
        wrong += tlsfuzzer(ports, certificates, out, pathlib.Path(checkout))
    for line in wrong:
        print(f"NEW  {line}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
