{{- define "dockbell.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "dockbell.fullname" -}}
{{- $name := include "dockbell.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "dockbell.selector" -}}
app.kubernetes.io/name: {{ include "dockbell.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dockbell.labels" -}}
{{ include "dockbell.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{- end }}

{{- define "dockbell.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- define "dockbell.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "dockbell.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "dockbell.claim" -}}
{{- .Values.store.sqlite.existingClaim | default (include "dockbell.fullname" .) }}
{{- end }}

{{- /* Namespaces with a Role, as JSON; none where a ClusterRole is for all. */}}
{{- define "dockbell.namespaces" -}}
{{- if .Values.rbac.clusterWide }}[]
{{- else }}
{{- .Values.rbac.namespaces | default (list .Release.Namespace) | uniq | toJson }}
{{- end }}
{{- end }}

{{- /* What a deploy needs: it watches and patches a workload, reads its pods
to say why they do not come up, and writes an event about it. */}}
{{- define "dockbell.rules" -}}
{{- $apps := without .Values.rbac.workloads "cronjobs" }}
{{- with $apps }}
- apiGroups: [apps]
  resources: {{ toJson . }}
  verbs: [get, list, watch, patch]
{{- end }}
{{- if has "cronjobs" .Values.rbac.workloads }}
- apiGroups: [batch]
  resources: [cronjobs]
  verbs: [get, list, watch, patch]
{{- end }}
{{- range $group, $resources := .Values.rbac.customResources }}
- apiGroups: [{{ $group }}]
  resources: {{ toJson $resources }}
  verbs: [get, list, watch, patch]
{{- end }}
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- if .Values.ruleResources }}
- apiGroups: [dockbell.dev]
  resources: [rules]
  verbs: [list, watch]
- apiGroups: [dockbell.dev]
  resources: [rules/status]
  verbs: [patch]
{{- end }}
{{- end }}

{{- /* The configuration: what the values say, with the addresses and the store
of the chart, and with Rules where the Roles let it see them. */}}
{{- define "dockbell.config" -}}
{{- $config := deepCopy .Values.config }}
{{- $server := $config.server | default dict }}
{{- $_ := set $server "listen" ":8080" }}
{{- $_ := set $server "admin" ":8081" }}
{{- $_ := set $config "server" $server }}
{{- if eq .Values.store.type "sqlite" }}
{{- $_ := set $config "store" "sqlite:/var/lib/dockbell/dockbell.db" }}
{{- else }}
{{- $_ := set $config "store" (dict "url" (dict "file" "/etc/dockbell/store/url")) }}
{{- end }}
{{- if and .Values.ruleResources (not $config.rulesFrom) }}
{{- $_ := set $config "rulesFrom" (dict "cluster" (dict "namespaces" (include "dockbell.namespaces" . | fromJsonArray))) }}
{{- end }}
{{- /* To Helm, which reads YAML 1.1, the key `on` is the word true. */}}
{{- range $config.notify }}
{{- if hasKey . "true" }}
{{- $_ := set . "on" (get . "true") }}
{{- $_ := unset . "true" }}
{{- end }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{- /* What cannot work is refused here, before anything changes. */}}
{{- define "dockbell.check" -}}
{{- if not (or .Values.configFrom.name (and .Values.config.sources (kindIs "slice" .Values.config.rules))) }}
{{- fail "config needs sources and rules: dockbell's configuration, as in its config.example.yaml. Or name what holds one in configFrom.name" }}
{{- end }}
{{- if and .Values.configFrom.name .Values.config }}
{{- fail "config is not used where configFrom.name is: remove one of them" }}
{{- end }}
{{- with .Values.config.server }}
{{- if or .listen .admin }}
{{- fail "config.server.listen and config.server.admin are the chart's: leave them out, and set the ports in hooks.service.port and admin.service.port" }}
{{- end }}
{{- end }}
{{- if .Values.config.store }}
{{- fail "config.store is the chart's: leave it out, and set store.type" }}
{{- end }}
{{- if and (eq .Values.store.type "sqlite") (gt (int .Values.replicas) 1) }}
{{- fail "several replicas cannot share SQLite: set store.type=postgres and store.postgres.secret, or replicas=1" }}
{{- end }}
{{- if and (eq .Values.store.type "postgres") (not .Values.store.postgres.secret) }}
{{- fail "store.postgres.secret is missing: the name of the Secret that holds the URL of the database" }}
{{- end }}
{{- if and .Values.hooks.ingress.enabled (not .Values.hooks.ingress.hosts) }}
{{- fail "hooks.ingress.hosts is missing: the names under which registries reach dockbell" }}
{{- end }}
{{- if and .Values.hooks.httpRoute.enabled (not .Values.hooks.httpRoute.parentRefs) }}
{{- fail "hooks.httpRoute.parentRefs is missing: the gateways that the route is for" }}
{{- end }}
{{- if and .Values.rbac.clusterWide .Values.rbac.namespaces }}
{{- fail "rbac.namespaces is not used where rbac.clusterWide is: remove one of them" }}
{{- end }}
{{- if .Values.rbac.create }}
{{- include "dockbell.checkRights" . }}
{{- end }}
{{- end }}

{{- /* Rights are enough for what the configuration says, as far as it names a
namespace and not another cluster. */}}
{{- define "dockbell.checkRights" -}}
{{- $namespaces := include "dockbell.namespaces" . | fromJsonArray }}
{{- range $rule := .Values.config.rules }}
{{- range $rule.actions }}
{{- with .kubernetes }}
{{- if not (or $.Values.rbac.clusterWide .cluster (not .namespace) (contains "{{" .namespace) (has .namespace $namespaces)) }}
{{- fail (printf "rule %s deploys in the namespace %s, where dockbell may not: add it to rbac.namespaces" $rule.name .namespace) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- range $registry := .Values.config.registries }}
{{- with .pullSecret }}
{{- if not (or .cluster (has .name (get $.Values.rbac.pullSecrets .namespace | default list))) }}
{{- fail (printf "registry %s needs the Secret %s of the namespace %s, which dockbell may not read: add it to rbac.pullSecrets" $registry.host .name .namespace) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
