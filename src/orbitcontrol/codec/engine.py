"""The Docker Engine API's own objects, as far as Orbit must know them.

``Container.Config`` and ``Container.HostConfig`` are passed through to the engine. The engine matches
their names without case and drops what it does not know in silence, so a misspelt ``Memroy`` would run
without a limit. These are the names that the API's ``ContainerConfig`` and ``HostConfig`` had in
versions 1.40 to 1.51 (moby's ``api/types/container``), and the types of those that Orbit itself reads.
"""

from __future__ import annotations

from typing import Literal

Kind = Literal["text", "texts", "environment", "text map", "object", "command"]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


CONFIG_FIELDS = _names("""
    ArgsEscaped AttachStderr AttachStdin AttachStdout Cmd Domainname Entrypoint Env ExposedPorts
    Healthcheck Hostname Image Labels MacAddress NetworkDisabled OnBuild OpenStdin Shell StdinOnce
    StopSignal StopTimeout Tty User Volumes WorkingDir
""")

HOST_CONFIG_FIELDS = _names("""
    Annotations AutoRemove Binds BlkioDeviceReadBps BlkioDeviceReadIOps BlkioDeviceWriteBps
    BlkioDeviceWriteIOps BlkioWeight BlkioWeightDevice CapAdd CapDrop Capabilities Cgroup CgroupParent
    CgroupnsMode ConsoleSize ContainerIDFile CpuCount CpuPercent CpuPeriod CpuQuota CpuRealtimePeriod
    CpuRealtimeRuntime CpuShares CpusetCpus CpusetMems DeviceCgroupRules DeviceRequests Devices Dns
    DnsOptions DnsSearch ExtraHosts GroupAdd IOMaximumBandwidth IOMaximumIOps Init IpcMode Isolation
    KernelMemory KernelMemoryTCP Links LogConfig MaskedPaths Memory MemoryReservation MemorySwap
    MemorySwappiness Mounts NanoCpus NetworkMode OomKillDisable OomScoreAdj PidMode PidsLimit
    PortBindings Privileged PublishAllPorts ReadonlyPaths ReadonlyRootfs RestartPolicy Runtime
    SecurityOpt ShmSize StorageOpt Sysctls Tmpfs UTSMode Ulimits UsernsMode VolumeDriver VolumesFrom
""")

KINDS: dict[str, Kind] = {
    "Image": "text",
    "Hostname": "text",
    "User": "text",
    "WorkingDir": "text",
    "Env": "environment",
    "Cmd": "command",
    "Entrypoint": "command",
    "Labels": "text map",
    "ExposedPorts": "object",
    "Healthcheck": "object",
    "Binds": "texts",
    "NetworkMode": "text",
    "PortBindings": "object",
    "RestartPolicy": "object",
    "LogConfig": "object",
}
"""What the fields must be that Orbit reads, merges or labels; all others are the engine's business."""
