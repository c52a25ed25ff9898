"""The job for Kubernetes is one that the API server, the operator and this program would take."""

import copy
import re
import shlex
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from kuberay import RAY_JOB

from loadgen import __version__
from loadgen.cli.run import command as run_command

ROOT = Path(__file__).parent.parent.parent
JOB = ROOT / "deploy" / "kuberay-job.yaml"

KUBERNETES = "1.33"


@pytest.fixture(scope="module")
def documents():
    return list(yaml.safe_load_all(JOB.read_text(encoding="utf-8")))


@pytest.fixture
def job(documents):
    (found,) = [one for one in documents if one["kind"] == "RayJob"]
    return copy.deepcopy(found)


def groups(job):
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def check_pods(job):
    for group in groups(job):
        template = {
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "metadata": {"name": "pod"},
            "template": group["template"],
        }
        kubernetes_validate.validate(template, KUBERNETES, strict=True)


def entrypoint(job):
    program, subcommand, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert (program, subcommand) == ("loadgen", "run")
    return arguments


def test_the_job_is_a_ray_job(job):
    jsonschema.validate(job, RAY_JOB)


def test_its_pods_and_all_beside_it_are_kubernetes_own(documents, job):
    check_pods(job)
    others = [one for one in documents if one["kind"] != "RayJob"]
    assert others
    for one in others:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "entryPoint"), "loadgen"),
        (("spec", "backoffLimit"), "0"),
        (("spec", "submissionMode"), "Http"),
        (("spec", "rayClusterSpec", "workerGroups"), []),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        (("spec", "rayClusterSpec", "workerGroupSpecs", 0, "replicas"), -1),
        (("apiVersion",), "ray.io/v1alpha1"),
        (("metadata", "name"), "Load_Gen"),
    ],
)
def test_the_schema_takes_nothing_else(job, path, value):
    place = job
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, RAY_JOB)


@pytest.mark.parametrize(
    "damage",
    [
        lambda pod: pod["containers"][0].update(imagePolicy="Always"),
        lambda pod: pod["containers"][0].pop("name"),
        lambda pod: pod["containers"][0].update(env=[{"value": "nameless"}]),
        lambda pod: pod.update(securityContext={"sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": 1025}]}),
    ],
)
def test_a_pod_that_is_wrong_is_found(job, damage):
    damage(groups(job)[1]["template"]["spec"])
    with pytest.raises(kubernetes_validate.ValidationError):
        check_pods(job)


def test_as_many_agents_as_the_command_asks_nodes_for(job):
    arguments = entrypoint(job)
    nodes = int(arguments[arguments.index("--nodes") + 1])
    (agents,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert agents["replicas"] == agents["minReplicas"] == agents["maxReplicas"] == nodes
    assert groups(job)[0]["rayStartParams"]["num-cpus"] == "0", "no agent on the driver's machine"


def test_the_command_is_one_that_this_program_takes(job):
    parsed = run_command.make_context("run", entrypoint(job), resilient_parsing=False).params
    assert parsed["ray"] == "auto"
    assert parsed["yes"], "nobody is there to be asked"


def test_results_outlive_the_cluster(job):
    arguments = entrypoint(job)
    out = arguments[arguments.index("--out") + 1]
    (head,) = groups(job)[0]["template"]["spec"]["containers"]
    (mount,) = [one for one in head["volumeMounts"] if out.startswith(one["mountPath"] + "/")]
    (volume,) = [one for one in groups(job)[0]["template"]["spec"]["volumes"] if one["name"] == mount["name"]]
    assert "persistentVolumeClaim" in volume


def test_rays_version_is_that_of_the_image_and_the_image_that_of_this_program(job):
    locked = re.search(r"^ray==(\S+)", (ROOT / "deploy" / "requirements.lock").read_text(), re.MULTILINE)
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == locked[1]
    images = {one["image"] for group in groups(job) for one in group["template"]["spec"]["containers"]}
    assert {image.rpartition(":")[2] for image in images} == {__version__}


def test_the_cluster_takes_work_from_those_alone_who_have_its_token(job):
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_no_pod_is_root_and_no_key_stands_in_the_file(job):
    for group in groups(job):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert all("value" not in one for one in container["env"]), "keys come from a secret"


def test_each_agent_has_whole_cores_and_a_machine_of_its_own(job):
    (agents,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    pod = agents["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    assert container["resources"]["limits"]["cpu"].isdigit()
    (apart,) = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["topologyKey"] == "kubernetes.io/hostname"
    assert apart["labelSelector"]["matchLabels"].items() <= agents["template"]["metadata"]["labels"].items()
