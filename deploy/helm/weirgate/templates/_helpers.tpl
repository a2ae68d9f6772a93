{{- /* int64: Helm reads the numbers of a file as floats, and would write a million as 1e+06. */}}
{{- /* The release is in every name: two releases share a namespace. */}}
{{- define "weirgate.name" -}}
{{- $name := ternary .Release.Name (printf "%s-weirgate" .Release.Name) (contains "weirgate" .Release.Name) }}
{{- .Values.fullnameOverride | default $name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- /* By which the pods of the release are found. They never change, or an upgrade would be refused. */}}
{{- define "weirgate.selector" -}}
{app.kubernetes.io/name: weirgate, app.kubernetes.io/instance: {{ .Release.Name | quote }}}
{{- end }}

{{- define "weirgate.podLabels" -}}
{{ merge (include "weirgate.selector" . | fromYaml) (dict "app.kubernetes.io/component" .Values.gateway) .Values.podLabels | toYaml }}
{{- end }}

{{- define "weirgate.labels" -}}
{{- $more := dict "app.kubernetes.io/component" .Values.gateway "app.kubernetes.io/version" .Chart.AppVersion }}
{{- merge (include "weirgate.selector" . | fromYaml) $more | toJson }}
{{- end }}

{{- define "weirgate.image" -}}
{{- $image := .Values.image }}
{{- with $image.digest }}{{ printf "%s@%s" $image.repository . }}{{ else }}{{ printf "%s:%s" $image.repository ($image.tag | default .Chart.AppVersion) }}{{ end }}
{{- end }}

{{- /* What the gateway makes of a setting in milliseconds, from (list $ FLAG DEFAULT): a flag overrides the environment, in which `env`
comes last. Values from envFrom and valueFrom are unknown here. */}}
{{- define "weirgate.milliseconds" -}}
{{- $values := (index . 0).Values }}
{{- $flag := printf "--%s" (index . 1) }}
{{- $name := printf "WEIRGATE_%s" (index . 1 | upper | replace "-" "_") }}
{{- $found := get $values.settings $name | default (index . 2) }}
{{- range $values.env }}
{{- if and (eq .name $name) .value }}{{ $found = .value }}{{ end }}
{{- end }}
{{- range $at, $arg := $values.extraArgs }}
{{- if hasPrefix (printf "%s=" $flag) $arg }}{{ $found = trimPrefix (printf "%s=" $flag) $arg }}{{ end }}
{{- if and (eq $arg $flag) (lt (add1 $at) (len $values.extraArgs | int64)) }}{{ $found = index $values.extraArgs (add1 $at) }}{{ end }}
{{- end }}
{{- int64 $found }}
{{- end }}

{{- /* The time of a stop that docs/guides/deploy.md asks for: delay, drain, and 2 × --stop-timeout-ms. */}}
{{- define "weirgate.graceSeconds" -}}
{{- $delay := include "weirgate.milliseconds" (list . "drain-delay-ms" .Values.drainDelayMs) }}
{{- $drain := include "weirgate.milliseconds" (list . "drain-ms" .Values.drainMs) }}
{{- $stop := include "weirgate.milliseconds" (list . "stop-timeout-ms" 5000) }}
{{- div (add $delay $drain (mul 2 $stop) 999) 1000 }}
{{- end }}

{{- define "weirgate.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (ternary (include "weirgate.name" .) "" .Values.serviceAccount.create) }}
{{- end }}

{{- /* The Secrets that the pods have as directories: the one with the values of settings, and those with files. */}}
{{- define "weirgate.secretNames" -}}
{{- $values := ternary (list .Values.secret.name) (list) (not (empty .Values.secret.settings)) }}
{{- concat .Values.secretFiles $values | uniq | toJson }}
{{- end }}

{{- /* What a container of weirgate starts with: the gateway, and the check before it. */}}
{{- define "weirgate.surroundings" -}}
image: {{ include "weirgate.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - {name: {{ .Values.portSetting }}, value: {{ .Values.port | quote }}}
  # Metrics, probes, the operator's page and pushes of services are not for clients: no Ingress and no Service for clients leads to this
  # port. On all addresses of the pod, for the kubelet and Prometheus; the NetworkPolicy of the chart says who else may.
  - {name: WEIRGATE_ADMIN_ADDR, value: "0.0.0.0:9100"}
  # No preStop hook: this is the time in which /ready says 503 and new clients are still accepted,
  # until every node has taken the pod out of the Service.
  - {name: WEIRGATE_DRAIN_DELAY_MS, value: {{ int64 .Values.drainDelayMs | quote }}}
  - {name: WEIRGATE_DRAIN_MS, value: {{ int64 .Values.drainMs | quote }}}
  - {name: WEIRGATE_LOG_FORMAT, value: json}
  {{- if ne (toString .Values.processes) "1" }}
  - {name: WEIRGATE_PROCESSES, value: {{ toString .Values.processes | quote }}}
  {{- end }}
  {{- with .Values.trustedProxies }}
  - {name: WEIRGATE_TRUSTED_PROXIES, value: {{ . | quote }}}
  {{- end }}
  {{- range $name, $value := .Values.settings }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
  {{- end }}
  {{- range .Values.secret.settings }}
  - {name: {{ . }}_FILE, value: {{ printf "/etc/weirgate/secrets/%s/%s" (required "secret.name" $.Values.secret.name) . | quote }}}
  {{- end }}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $secrets := include "weirgate.secretNames" . | fromJsonArray }}
{{- if or .Values.files $secrets }}
# Directories, and no subPath: a single mounted file would stay as it was at the start of the pod.
volumeMounts:
  {{- if .Values.files }}
  - {name: files, mountPath: /etc/weirgate/files, readOnly: true}
  {{- end }}
  {{- range $number, $name := $secrets }}
  - {name: secret-{{ $number }}, mountPath: /etc/weirgate/secrets/{{ $name }}, readOnly: true}
  {{- end }}
{{- end }}
{{- include "weirgate.confined" . }}
{{- end }}

{{- define "weirgate.confined" }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- /* The user of the image. */}}
{{- define "weirgate.nobody" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- end }}
