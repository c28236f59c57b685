"""The manifests of deploy/ fit their schemas, one another, Beam's options and this program's verbs."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml  # type: ignore[import-untyped]
from apache_beam.options.pipeline_options import FlinkRunnerOptions, PipelineOptions, PortableOptions
from pydantic import ValidationError

from beam_jobs.command import main
from beam_jobs.engine import parse_beam_options
from tests.house.manifests import KINDS, Compose, ComposeService, Container, FlinkDeployment, Strict

HERE = Path(__file__).parents[2]
DEPLOY = HERE / "deploy"
BASE = sorted((DEPLOY / "flink" / "base").glob("[!k]*.yaml"))
ROOT = "/var/lib/echobeam"
PROJECT: dict[str, Any] = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
OURS = f"echobeam:{PROJECT['version']}"
(BEAM,) = re.findall(r"apache-beam==([\d.]+)", str(PROJECT["optional-dependencies"]["worker"]))


def validated(document: dict[str, Any]) -> Strict:
    return KINDS[document["kind"]].model_validate(document)


def manifests(text: str) -> list[Strict]:
    return [validated(document) for document in yaml.safe_load_all(text)]


def rendered(folder: str) -> list[Strict]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(
        ["kubectl", "kustomize", DEPLOY / "flink" / folder], capture_output=True, text=True, check=True
    )
    return manifests(done.stdout)


def base() -> list[Any]:
    return [manifest for path in BASE for manifest in manifests(path.read_text())]


def compose() -> Compose:
    document = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    # What begins so is an extension of the file's own, merged into the services before this sees it.
    return Compose.model_validate({name: it for name, it in document.items() if not name.startswith("x-")})


def named(kind: str, name: str, among: list[Any] | None = None) -> Any:
    return next(it for it in among or base() if it.kind == kind and it.metadata.name == name)


def containers(among: list[Any] | None = None) -> dict[str, Container]:
    found = {}
    for manifest in among or base():
        if manifest.kind == "FlinkDeployment":
            found.update({it.name: it for it in manifest.spec.task_manager.pod_template.spec.containers})
        if manifest.kind == "Deployment":
            found.update({it.name: it for it in manifest.spec.template.spec.containers})
    return found


def services() -> dict[str, ComposeService]:
    return compose().services


def command_lines() -> list[tuple[str, list[str]]]:
    """List what the containers of our image run, by where it is written."""
    kubernetes = [(f"flink {name}", it.args) for name, it in containers().items() if it.image == OURS]
    local = [(f"compose {name}", it.command) for name, it in services().items() if it.image == OURS]
    return [(name, words) for name, words in kubernetes + local if not words[0].startswith("--")]


@pytest.mark.parametrize("path", BASE, ids=lambda path: path.stem)
def test_a_manifest_fits_the_schema_of_its_kind(path: Path) -> None:
    assert manifests(path.read_text())


@pytest.mark.parametrize(
    ("field", "value"),
    [("flinkVersion", "1.20"), ("taskmanager", {}), ("mode", "cluster"), ("image", "flink")],
)
def test_the_schema_finds_what_the_operator_would_refuse(field: str, value: object) -> None:
    document = yaml.safe_load((DEPLOY / "flink" / "base" / "flink.yaml").read_text())
    document["spec"][field] = value
    with pytest.raises(ValidationError, match=field):
        FlinkDeployment.model_validate(document)


def test_every_manifest_is_applied() -> None:
    listed = yaml.safe_load((DEPLOY / "flink" / "base" / "kustomization.yaml").read_text())["resources"]
    assert sorted(listed) == [path.name for path in BASE]


@pytest.mark.parametrize("folder", ["base", "gpu"])
def test_what_kustomize_renders_fits_the_schemas(folder: str) -> None:
    assert len(rendered(folder)) == len(base())


def test_with_gpus_the_worker_pool_asks_for_one_and_the_driver_for_one_harness() -> None:
    among = rendered("gpu")
    flink = named("FlinkDeployment", "echobeam-flink", among)
    pod = flink.spec.task_manager.pod_template.spec
    pool = containers(among)["worker-pool"]
    assert pool.resources.limits["nvidia.com/gpu"] == "1"
    assert pool.resources.limits["memory"] == containers()["worker-pool"].resources.limits["memory"]
    assert pod.node_selector == {"echobeam/pool": "gpu"}
    assert [it.key for it in pod.tolerations] == ["nvidia.com/gpu"]
    assert flink.spec.flink_configuration["taskmanager.numberOfTaskSlots"] == "1"
    options = parse_beam_options(beam_words(containers(among)["driver"].args))
    assert int(options.view_as(PortableOptions).sdk_worker_parallelism) == 1
    assert "accelerator=type:nvidia" in options.get_all_options()["resource_hints"][0]


def beam_words(words: list[str]) -> list[str]:
    return words[words.index("--") + 1 :]


@pytest.mark.parametrize("words", [pytest.param(words, id=where) for where, words in command_lines()])
def test_a_container_runs_a_real_verb_with_real_options(words: list[str]) -> None:
    verb = main.get_command(click.Context(main), words[0])
    assert verb is not None
    parsed = verb.make_context(words[0], words[1:], resilient_parsing=False)
    assert str(parsed.params["root"]) == ROOT
    if "--" in words:
        assert isinstance(parse_beam_options(beam_words(words)), PipelineOptions)


@pytest.mark.parametrize("driver", ["flink", "compose"])
def test_driver_job_server_pool_and_task_manager_agree(driver: str) -> None:
    if driver == "flink":
        all_of = containers()
        words, pool = all_of["driver"].args, all_of["worker-pool"].args
        server, host = all_of["job-server"].args, "echobeam-job-server"
        slots = named("FlinkDeployment", "echobeam-flink").spec.flink_configuration
        slot_count = int(slots["taskmanager.numberOfTaskSlots"])
        assert "--flink-master=echobeam-flink-rest:8081" in server
        assert {port.port for port in named("Service", host).spec.ports} == {8098, 8099}
    else:
        local = services()
        words, pool = local["driver"].command, local["worker-pool"].command
        server, host = local["job-server"].command, "job-server"
        properties = yaml.safe_load(local["task-manager"].environment["FLINK_PROPERTIES"])
        slot_count = properties["taskmanager.numberOfTaskSlots"]
        assert "--flink-master=job-manager:8081" in server
        assert local["worker-pool"].network_mode == "service:task-manager"
        assert properties["jobmanager.rpc.address"] == "job-manager"
    options = parse_beam_options(beam_words(words)).view_as(PortableOptions)
    assert options.environment_type == "EXTERNAL"
    assert f"--service_port={options.environment_config.removeprefix('localhost:')}" == pool[0]
    assert options.job_endpoint == f"{host}:8099"
    assert options.artifact_endpoint == f"{host}:8098"
    assert {"--job-port=8099", "--artifact-port=8098"} <= set(server)
    assert int(options.sdk_worker_parallelism) == slot_count


def test_beam_and_flink_have_one_version_each() -> None:
    images = [it.image for it in containers().values()] + [it.image for it in services().values()]
    (job_server,) = {image for image in images if image and "job_server" in image}
    flink = FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS
    (version,) = re.findall(r"^apache/beam_flink([\d.]+)_job_server:", job_server)
    assert version in flink
    assert job_server.endswith(f":{BEAM}")
    cluster = named("FlinkDeployment", "echobeam-flink").spec
    assert cluster.image == f"flink:{version}"
    assert cluster.flink_version == f"v{version.replace('.', '_')}"
    assert services()["task-manager"].image == services()["job-manager"].image == cluster.image


def test_who_processes_studies_mounts_the_root_where_the_driver_says_it_is() -> None:
    all_of = containers()
    for name in ("listener", "driver", "worker-pool"):
        (mount,) = all_of[name].volume_mounts
        assert (mount.name, mount.mount_path) == ("data", ROOT)
    assert not all_of["flink-main-container"].volume_mounts
    (claim,) = {
        volume.persistent_volume_claim.claim_name
        for manifest in base()
        if manifest.kind == "Deployment"
        for volume in manifest.spec.template.spec.volumes
    }
    assert named("PersistentVolumeClaim", claim).spec.access_modes == ["ReadWriteMany"]
    for name in ("listener", "driver", "worker-pool"):
        assert services()[name].volumes == [f"data:{ROOT}"]


def test_what_is_ours_runs_without_privileges_and_knows_the_ledger() -> None:
    pods = {
        it.spec.template.spec.containers[0].name: it.spec.template.spec.security_context
        for it in base()
        if it.kind == "Deployment"
    }
    for name, container in containers().items():
        if container.image != OURS:
            continue
        assert container.security_context is not None
        security = pods.get(name, container.security_context)
        assert (security.run_as_non_root, security.run_as_user) == (True, 10001)
        sources = [source.secret_ref.name for source in container.env_from if source.secret_ref]
        assert sources == ["echobeam-ledger"]
    for service in services().values():
        assert service.image != OURS or (service.cap_drop == ["ALL"] and service.env_file == ["echobeam.env"])


def test_every_setting_in_the_environment_is_one() -> None:
    told = named("ConfigMap", "echobeam-config").data
    example = (DEPLOY / "compose" / "echobeam.env.example").read_text()
    names = set(told) | set(re.findall(r"^(ECHOBEAM_\w+)=", example, re.MULTILINE))
    reference = (HERE / "docs" / "reference" / "configuration.md").read_text()
    for name in names:
        section, setting = re.fullmatch(r"ECHOBEAM_([A-Z]+)_(\w+)", name).groups()  # type: ignore[union-attr]
        assert re.search(rf"^\| `{setting.lower()}` \|", reference, re.MULTILINE), name
        assert section in {"LISTENER", "WORKER"}


def test_the_image_installs_the_lock_copies_what_is_there_and_runs_as_nobody_else() -> None:
    dockerfile = (DEPLOY / "images" / "Dockerfile").read_text()
    assert "--require-hashes -r requirements.lock" in dockerfile
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    assert {"dicom_listener", "beam_jobs", "echo_models", "requirements.lock"} <= set(names)
    assert all((HERE / name).exists() for name in names)
    ignore = (DEPLOY / "images" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{name}" for name in names} <= set(ignore)
    assert re.search(r"^USER 10001:10001$", dockerfile, re.MULTILINE)
    assert dockerfile.splitlines()[2].endswith(f"{OURS} .")


def test_no_secret_is_in_the_manifests() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.suffix in {".yaml", ".example", ".md", ""}:
            for password in re.findall(r"://\w+:([^@\s]+)@", path.read_text()):
                assert password == "PASSWORD", path  # noqa: S105 - stands for one
