"""The fields of Kubernetes and compose that the manifests use, as far as they use them.

Nothing else is let through: a misspelled field is found here and not on a cluster. Written by hand after
the references of Kubernetes 1.32 (apps/v1, v1), of the Flink Kubernetes operator 1.12 (custom resource
v1beta1, "FlinkDeployment Reference"), of kustomize 5 and of the compose specification.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


class Strict(BaseModel):
    """Named as in the file, in camel case, and nothing else."""

    model_config = ConfigDict(extra="forbid", alias_generator=_camel, strict=True)


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Quantity = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?(m|Ki|Mi|Gi|Ti)?$")]
FlinkMemory = Annotated[str, StringConstraints(pattern=r"^\d+(m|g|mb|gb|Mi|Gi)$")]
Port = Annotated[int, Field(ge=1, le=65535)]
Image = Annotated[str, StringConstraints(pattern=r"^[a-z0-9./_-]+:[A-Za-z0-9._-]+$")]


class Metadata(Strict):
    name: Name | None = None
    labels: dict[str, str] = {}


class NameOnly(Strict):
    name: Name


class EnvFrom(Strict):
    config_map_ref: NameOnly | None = None
    secret_ref: NameOnly | None = None


class EnvVar(Strict):
    name: str
    value: str


class ContainerPort(Strict):
    name: Name
    container_port: Port


class HttpGet(Strict):
    path: str
    port: Port


class TcpSocket(Strict):
    port: Port


class Probe(Strict):
    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    initial_delay_seconds: int = 0
    failure_threshold: int = 3


class Resources(Strict):
    requests: dict[str, Quantity] = {}
    limits: dict[str, Quantity] = {}


class Capabilities(Strict):
    drop: list[Literal["ALL"]]


class ContainerSecurity(Strict):
    run_as_non_root: bool | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    allow_privilege_escalation: Literal[False]
    capabilities: Capabilities


class VolumeMount(Strict):
    name: Name
    mount_path: str


class Container(Strict):
    name: Name
    image: Image | None = None
    command: list[str] = []
    args: list[str] = []
    env: list[EnvVar] = []
    env_from: list[EnvFrom] = []
    ports: list[ContainerPort] = []
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    resources: Resources = Resources()
    security_context: ContainerSecurity | None = None
    volume_mounts: list[VolumeMount] = []


class Claim(Strict):
    claim_name: Name


class Volume(Strict):
    name: Name
    persistent_volume_claim: Claim


class PodSecurity(Strict):
    run_as_non_root: bool | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    fs_group: int | None = None


class Toleration(Strict):
    key: str
    operator: Literal["Exists", "Equal"]
    effect: Literal["NoSchedule", "NoExecute", "PreferNoSchedule"]


class PodSpec(Strict):
    containers: list[Container]
    volumes: list[Volume] = []
    security_context: PodSecurity = PodSecurity()
    node_selector: dict[str, str] = {}
    tolerations: list[Toleration] = []
    termination_grace_period_seconds: int = 30


class PodTemplate(Strict):
    metadata: Metadata = Metadata()
    spec: PodSpec


class Selector(Strict):
    match_labels: dict[str, str]


class Strategy(Strict):
    type: Literal["Recreate", "RollingUpdate"]


class DeploymentSpec(Strict):
    replicas: int
    strategy: Strategy
    selector: Selector
    template: PodTemplate


class Deployment(Strict):
    api_version: Literal["apps/v1"]
    kind: Literal["Deployment"]
    metadata: Metadata
    spec: DeploymentSpec


class ServicePort(Strict):
    name: Name
    port: Port
    target_port: Port


class ServiceSpec(Strict):
    type: Literal["ClusterIP", "LoadBalancer", "NodePort"] = "ClusterIP"
    external_traffic_policy: Literal["Local", "Cluster"] | None = None
    selector: dict[str, str]
    ports: list[ServicePort]


class Service(Strict):
    api_version: Literal["v1"]
    kind: Literal["Service"]
    metadata: Metadata
    spec: ServiceSpec


class ConfigMap(Strict):
    api_version: Literal["v1"]
    kind: Literal["ConfigMap"]
    metadata: Metadata
    data: dict[str, str]


class VolumeClaimSpec(Strict):
    access_modes: list[Literal["ReadWriteOnce", "ReadWriteMany"]]
    resources: Resources


class VolumeClaim(Strict):
    api_version: Literal["v1"]
    kind: Literal["PersistentVolumeClaim"]
    metadata: Metadata
    spec: VolumeClaimSpec


class FlinkResource(Strict):
    memory: FlinkMemory
    cpu: float | int


class JobManager(Strict):
    resource: FlinkResource
    replicas: int = 1


class TaskManager(Strict):
    resource: FlinkResource
    replicas: int
    pod_template: PodTemplate


class FlinkSpec(Strict):
    image: Image
    flink_version: Literal["v1_19", "v1_20", "v2_0", "v2_1", "v2_2"]
    mode: Literal["native", "standalone"]
    service_account: Name
    flink_configuration: dict[str, str]
    job_manager: JobManager
    task_manager: TaskManager


class FlinkDeployment(Strict):
    api_version: Literal["flink.apache.org/v1beta1"]
    kind: Literal["FlinkDeployment"]
    metadata: Metadata
    spec: FlinkSpec


KINDS: dict[str, type[Strict]] = {
    kind.__name__: kind for kind in (Deployment, Service, ConfigMap, FlinkDeployment)
} | {"PersistentVolumeClaim": VolumeClaim}


class Snake(BaseModel):
    """Named in the file as here, and nothing else."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Build(Snake):
    context: str
    dockerfile: str


class Condition(Snake):
    condition: Literal["service_started", "service_healthy"]


class Healthcheck(Snake):
    test: list[str]
    interval: str
    retries: int


class ComposeService(Snake):
    image: Image
    build: Build | None = None
    entrypoint: list[str] = []
    command: list[str] = []
    environment: dict[str, str] = {}
    env_file: list[str] = []
    volumes: list[str] = []
    ports: list[str] = []
    secrets: list[str] = []
    depends_on: list[str] | dict[str, Condition] = []
    healthcheck: Healthcheck | None = None
    network_mode: str | None = None
    security_opt: list[str] = []
    cap_drop: list[Literal["ALL"]] = []
    restart: Literal["unless-stopped", "no", "always", "on-failure"]
    stop_grace_period: str = "10s"


class ComposeSecret(Snake):
    file: str


class Compose(Snake):
    name: str
    services: dict[str, ComposeService]
    volumes: dict[str, dict[str, Any]]
    secrets: dict[str, ComposeSecret]
