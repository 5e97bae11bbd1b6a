"""cvae archs"""

from cvae.cli import _shared


def archs(json: _shared.Json = False) -> None:
    """List the architectures, and the other parts that a model is made of; plug-ins too.

    Example: cvae train --arch conv
    """
    from cvae import registry

    kinds = {
        "--arch": registry.ARCHITECTURES,
        "--conditioning": registry.CONDITIONINGS,
        "--likelihood": registry.LIKELIHOODS,
        "--prior": registry.PRIORS,
        "--objective": registry.OBJECTIVES,
        "--data": registry.DATASETS,
        "export": registry.EXPORTERS,
    }
    facts = {flag: {name: parts.summary(name) for name in parts} for flag, parts in kinds.items()}
    width = max(len(name) for names in facts.values() for name in names)
    lines = []
    for flag, names in facts.items():
        lines += [flag, *(f"  {name:{width}}  {summary}" for name, summary in names.items())]
    _shared.report(json, facts, "\n".join(lines))
