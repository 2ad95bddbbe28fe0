# Where the workflow reaches behind Snakemake's interface. Each place says why;
# tests/workflow/test_snakemake_internals.py fails when Snakemake no longer has it, or no longer needs it.
#
# Tried with 9.27.1. Of 9.20, 9.21, 9.22, 9.23, 9.25.2 and 9.27.1 the source was compared: all have what is used here.
# pyproject.toml allows no version that was not looked at (snakemake <10).
import os
import sys
from pathlib import Path

from snakemake.checkpoints import Checkpoint
from snakemake.exceptions import WorkflowError
from snakemake.io import IOFile, contains_wildcard, flag
from snakemake.path_modifier import PATH_MODIFIER_FLAG
from snakemake.settings.types import DeploymentMethod

from framefeat import environment

# Whether another workflow uses this one as a module. Then nothing of what follows may reach that workflow's own rules.
IS_MODULE = not workflow.modifier.is_main_snakefile()
# How Snakemake moves the paths of this module's rules (prefix, replace_prefix).
PATH_MODIFIER = workflow.modifier.path_modifier

# Where Snakemake works (--directory), seen from where it was called: a reader can use paths that begin with it.
WORKS_AT = Path(workflow.overwrite_workdir or "")


def moved(path):
    """Where a file of the rules lies. Snakemake moves what rules name as files, and not what functions and parameters
    name."""
    return PATH_MODIFIER.replace_prefix(str(path))


def not_moved(path):
    """For a rule's input that a person named: it lies where it was said to."""
    return path if moved(path) == path else flag(path, PATH_MODIFIER_FLAG)


def is_made_by_another_module(path):
    """Two modules of this workflow may need the same file, which only one rule can make."""
    return any(rule.is_checkpoint and rule.is_producer(path) for rule in workflow.rules)


def checkpoint_of(name, path):
    """The one of that name, which makes ``path``. Where another workflow takes some of the rules by themselves, to change
    them, Snakemake does not show these the others by name."""
    if hasattr(checkpoints, name):
        return getattr(checkpoints, name)
    makers = [one for one in workflow.rules if one.is_checkpoint and one.is_producer(moved(path))]
    if not makers:
        raise WorkflowError(f"Nothing makes {moved(path)!r}: take {name} from this module as well.")
    return Checkpoint(makers[0], workflow.checkpoints)


def forget_failed_jobs(outputs):
    """Snakemake writes down of a failed job, too, what its inputs and parameters were. If its outputs are needed by files
    that are there, it then takes these for up to date, and the next run has nothing to do. Of outputs that are not there
    there is nothing to remember: without a record the time of the inputs tells."""
    if not workflow.is_main_process:
        return
    for path in map(moved, outputs):
        if not os.path.exists(path):
            workflow.persistence.cleanup_metadata(IOFile(path))


def name_here(rule):
    """What Snakemake calls a rule of this workflow, which may be a module whose rules have other names."""
    return workflow.modifier.modify_rulename(rule)


def is_forced(name):
    """Whether a person asked for the jobs of the rule that Snakemake calls ``name`` to run whatever is there
    (--forcerun, --forceall). Not known while the workflow is read: ask in a function. On a cluster a job has a Snakemake
    of its own, which is not told: it has it from the environment."""
    if workflow.is_main_process:
        asked = workflow.dag_settings
        os.environ[environment.FORCED] = "*" if asked.forceall else " ".join(asked.forcerun)
    forced = os.environ.get(environment.FORCED, "").split()
    return "*" in forced or name in forced


def without_rate_limit():
    """Snakemake limits itself to 100 job starts a second by default. Its way to do so sets a timer at each look at the
    ready jobs that looks again and sets another: after n jobs it looks n times a second (2,703 looks in a run of 129
    jobs). Called while the jobs are worked out, when the settings are there and the scheduler is not yet. A limit that a
    person sets stays."""
    scheduling = None if IS_MODULE else workflow.scheduling_settings
    limit = scheduling and scheduling.max_jobs_per_timespan
    if limit and (limit.max_jobs, limit.timespan) == (100, 1):
        scheduling.max_jobs_per_timespan = None


def given_resource(name):
    """A limit of this run (--resources, --cores as "_cores", --jobs as "_nodes"); None where none is set."""
    return workflow.global_resources[name].value if name in workflow.global_resources else None


# Which executor there will be is not known while the workflow is read. Only an executor that sends jobs elsewhere has a
# limit on their number (--jobs).
RUNS_JOBS_HERE = workflow.is_main_process and given_resource("_nodes") is None

# --resources on the command line replaces a profile's, so a limit for runs without it cannot stand in the profile.
if RUNS_JOBS_HERE and not IS_MODULE and "gpu" not in workflow.global_resources:
    workflow.register_resource("gpu", 1)


def refuse_braces(*paths):
    """What a rule names as a file cannot have braces, which Snakemake takes for a wildcard and cannot be told to leave
    alone. The videos and their folder can."""
    for path in filter(None, paths):
        if contains_wildcard(path):
            raise WorkflowError(
                f"{path!r}: Snakemake takes what stands in braces for a wildcard; rename the file."
            )


def refuse_folder_with_braces(folder):
    """Snakemake formats the path of a rule's environment, too."""
    if "{" in str(folder) or "}" in str(folder):
        raise WorkflowError(
            f"{str(folder)!r}: Snakemake cannot run a workflow in a folder with braces in its name; rename it."
        )


def conda_environment():
    """For the rules' conda line. One environment serves every rule, the one that Snakemake itself runs in.

    A file could not say so: Snakemake copies it away from the lock that it points to, and this package is in neither.
    A folder alone could not either: Snakemake asks conda what is in it for each output, also without --sdm conda. So the
    file is on record, and with --sdm conda the environment is activated for each job."""
    if DeploymentMethod.CONDA not in workflow.deployment_settings.deployment_method:
        return "../../envs/environment.yaml"
    if not os.path.isdir(os.path.join(sys.prefix, "conda-meta")):
        if IS_MODULE:  # asked for by the other workflow, for its own rules
            return None
        raise WorkflowError(
            f"--sdm conda: Snakemake runs in {sys.prefix!r}, which is no conda environment. Leave the option out: the jobs run "
            "in the environment of Snakemake. Or run Snakemake in the one of envs/environment.yaml."
        )
    refuse_folder_with_braces(sys.prefix)
    return sys.prefix


refuse_folder_with_braces(workflow.current_basedir.get_path_or_uri(secret_free=True))
