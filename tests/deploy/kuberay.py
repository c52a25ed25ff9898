"""What KubeRay's custom resource RayJob may look like: the part of its structural schema that an example can touch.

Written by hand from the Go types of ray.io/v1 (ray-project/kuberay, ray-operator/apis/ray/v1: rayjob_types.go and
raycluster_types.go) and the API reference of v1.5 to v1.7 (docs.ray.io, "KubeRay CRD API reference"). It takes no field
that it does not know, like the API server with strict field validation. Pods are left to Kubernetes' own schema.
"""

from typing import Any, Final

Schema = dict[str, Any]

INT32: Final[Schema] = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
COUNT: Final[Schema] = INT32 | {"minimum": 0}
TEXTS: Final[Schema] = {"type": "object", "additionalProperties": {"type": "string"}}
POD: Final[Schema] = {"type": "object", "required": ["spec"]}


def fields(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    """An object of these fields and no other."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


HEAD_GROUP: Final = fields(
    ("rayStartParams", "template"),  # the former may be left out from 1.4 on
    enableIngress={"type": "boolean"},
    headService={"type": "object"},
    labels=TEXTS,
    rayStartParams=TEXTS,
    resources=TEXTS,
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]},
    template=POD,
)

WORKER_GROUP: Final = fields(
    ("groupName", "maxReplicas", "minReplicas", "rayStartParams", "template"),
    groupName={"type": "string", "minLength": 1},
    idleTimeoutSeconds=COUNT,
    labels=TEXTS,
    maxReplicas=COUNT,
    minReplicas=COUNT,
    numOfHosts=COUNT,
    rayStartParams=TEXTS,
    replicas=COUNT,
    resources=TEXTS,
    scaleStrategy=fields(workersToDelete={"type": "array", "items": {"type": "string"}}),
    suspend={"type": "boolean"},
    template=POD,
)

CLUSTER: Final = fields(
    ("headGroupSpec",),
    authOptions=fields(mode={"enum": ["disabled", "token"]}, secretName={"type": "string"}),
    autoscalerOptions={"type": "object"},
    enableInTreeAutoscaling={"type": "boolean"},
    gcsFaultToleranceOptions={"type": "object"},
    headGroupSpec=HEAD_GROUP,
    headServiceAnnotations=TEXTS,
    managedBy={"enum": ["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]},
    rayVersion={"type": "string"},
    suspend={"type": "boolean"},
    workerGroupSpecs={"type": "array", "items": WORKER_GROUP},
)

RAY_JOB: Final = fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=fields(
        ("name",),
        # The operator makes names of it, with suffixes, and a name has 63 characters.
        name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 47},
        namespace={"type": "string"},
        labels=TEXTS,
        annotations=TEXTS,
    ),
    spec=fields(
        activeDeadlineSeconds=INT32 | {"minimum": 1},
        backoffLimit=COUNT,
        clusterSelector=TEXTS,
        deletionStrategy={"type": "object"},
        entrypoint={"type": "string"},
        entrypointNumCpus={"type": "number"},
        entrypointNumGpus={"type": "number"},
        entrypointResources={"type": "string"},
        jobId={"type": "string"},
        managedBy={"enum": ["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]},
        metadata=TEXTS,
        rayClusterSpec=CLUSTER,
        runtimeEnvYAML={"type": "string"},
        shutdownAfterJobFinishes={"type": "boolean"},
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        submitterConfig=fields(backoffLimit=COUNT),
        submitterPodTemplate=POD,
        suspend={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT,
    ),
)
