{{- /* int64: Helm reads the numbers of a file as floats, and would write a million as 1e+06. */}}
{{- define "weirgate.name" -}}
weirgate-{{ .Values.gateway }}
{{- end }}

{{- define "weirgate.labels" -}}
{app.kubernetes.io/name: weirgate, app.kubernetes.io/component: {{ .Values.gateway }}}
{{- end }}

{{- /* Delay, drain, --stop-timeout-ms (5 s), and 5 s of margin. */}}
{{- define "weirgate.graceSeconds" -}}
{{ add (div (add .Values.drainDelayMs .Values.drainMs 999) 1000) 10 }}
{{- end }}

{{- define "weirgate.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (ternary (include "weirgate.name" .) "" .Values.serviceAccount.create) }}
{{- end }}

{{- /* What a container of weirgate starts with: the gateway, and the check before it. */}}
{{- define "weirgate.surroundings" -}}
image: {{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Values.gateway) | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - {name: {{ .Values.portSetting }}, value: {{ .Values.port | quote }}}
  # Metrics, probes and pushes of services are not for clients: no Ingress leads to this port. On all addresses of the pod, for
  # the kubelet and Prometheus: every pod of the cluster reaches it, unless a NetworkPolicy (networkPolicy of the chart) says who may.
  - {name: WEIRGATE_ADMIN_ADDR, value: "0.0.0.0:9100"}
  # No preStop hook: this is the time in which /ready says 503 and new clients are still accepted,
  # until every node has taken the pod out of the Service.
  - {name: WEIRGATE_DRAIN_DELAY_MS, value: {{ int64 .Values.drainDelayMs | quote }}}
  - {name: WEIRGATE_DRAIN_MS, value: {{ int64 .Values.drainMs | quote }}}
  - {name: WEIRGATE_LOG_FORMAT, value: json}
  {{- with .Values.trustedProxies }}
  - {name: WEIRGATE_TRUSTED_PROXIES, value: {{ . | quote }}}
  {{- end }}
  {{- range $name, $value := .Values.settings }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
  {{- range .Values.secret.settings }}
  - name: {{ . }}
    valueFrom: {secretKeyRef: {name: {{ required "secret.name" $.Values.secret.name }}, key: {{ . }}}}
  {{- end }}
{{- with .Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if or .Values.files .Values.secretFiles }}
# Directories, and no subPath: a single mounted file would stay as it was at the start of the pod.
volumeMounts:
  {{- if .Values.files }}
  - {name: files, mountPath: /etc/weirgate/files, readOnly: true}
  {{- end }}
  {{- range $number, $name := .Values.secretFiles }}
  - {name: secret-{{ $number }}, mountPath: /etc/weirgate/secrets/{{ $name }}, readOnly: true}
  {{- end }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}
