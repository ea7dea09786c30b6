"""membound pull: bring a model to the local cache."""

from membound.commands.output import print_json, progress, size


def pull_command(name: str, *, json: bool) -> None:
    from membound.models.pull import pull

    with progress(f"pulling {name}", quiet=json) as show:
        pulled = pull(name, progress=show)
    if json:
        print_json({"path": str(pulled.path), "bytes": pulled.bytes, "sha256": pulled.sha256})
    else:
        print(f"{pulled.path}  {size(pulled.bytes)}  sha256 {pulled.sha256}")
