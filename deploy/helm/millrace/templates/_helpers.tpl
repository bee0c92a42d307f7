{{- define "millrace.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- define "millrace.labels" -}}
app.kubernetes.io/name: millrace
{{- end -}}
