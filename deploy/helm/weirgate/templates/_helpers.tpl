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
