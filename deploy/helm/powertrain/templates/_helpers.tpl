{{- define "powertrain.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 53 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 53 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "powertrain.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "powertrain.labels" -}}
{{ include "powertrain.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "powertrain.image" -}}
{{- if .Values.image.digest }}{{ printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}{{ printf "%s:%s" .Values.image.repository (default (printf "%s-%s" .Chart.AppVersion .Values.backend) .Values.image.tag) }}{{ end }}
{{- end }}

{{- define "powertrain.account" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "powertrain.name" .) .Values.serviceAccount.name }}{{ else }}{{ default "default" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- /* Rights of every container: none. */ -}}
{{- define "powertrain.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* What contradicts itself ends the rendering with one line. */ -}}
{{- define "powertrain.check" -}}
{{- if and (not .Values.apiKey.existingSecret) (not .Values.allowPublicWithoutKey) }}
{{- fail "apiKey.existingSecret names no Secret of API keys; to serve without one, say allowPublicWithoutKey: true" }}
{{- end }}
{{- if and .Values.apiKey.existingSecret .Values.allowPublicWithoutKey }}
{{- fail "apiKey.existingSecret and allowPublicWithoutKey contradict each other; give one" }}
{{- end }}
{{- if and (eq .Values.package.from "volume") (not .Values.package.claimName) }}
{{- fail "package.from is volume, so package.claimName must name a PersistentVolumeClaim that holds packages" }}
{{- end }}
{{- if and (eq .Values.package.from "build") (not .Values.package.model) }}
{{- fail "package.from is build, so package.model must say what to build: a recipe's name or a hub id" }}
{{- end }}
{{- if and (eq .Values.package.from "build") (has .Values.backend (list "tensorrt" "tensorrt-rtx")) }}
{{- fail "package.from is build, but TensorRT's plans are not built in a pod; put the package with its plans into a volume or an image" }}
{{- end }}
{{- range $name := list "host" "port" "model" "backend" "api_key" "api_key_file" "allow_public_without_key" "drain_timeout_s" }}
{{- if hasKey $.Values.settings $name }}{{ fail (printf "settings.%s is the chart's own; use the value that stands for it" $name) }}{{ end }}
{{- end }}
{{- end }}
