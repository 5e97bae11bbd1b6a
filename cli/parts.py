"""The command `cvae parts`."""

from cvae.cli import _shared


def parts(json: _shared.Json = False) -> None:
    """List the architectures and the other parts of a model, including parts from plug-ins.

    Example: cvae parts
    """
    from cvae import registry

    registries = {
        "--arch": registry.ARCHITECTURES,
        "--conditioning": registry.CONDITIONINGS,
        "--likelihood": registry.LIKELIHOODS,
        "--prior": registry.PRIORS,
        "--objective": registry.OBJECTIVES,
        "--data": registry.DATASETS,
        "export": registry.EXPORTERS,
    }
    summaries = {flag: {name: parts.summary(name) for name in parts} for flag, parts in registries.items()}
    width = max(len(name) for names in summaries.values() for name in names)
    lines = []
    for flag, names in summaries.items():
        lines += [flag, *(f"  {name:{width}}  {summary}" for name, summary in names.items())]
    _shared.report(json, summaries, "\n".join(lines))
