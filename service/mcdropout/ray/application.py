"""The service as an application of Ray Serve."""

from pathlib import Path

from ray import cloudpickle, serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, BackpressureConfig, RequestRouterConfig
from ray.serve.schema import LoggingConfig

from mcdropout.catalogue.bundle import named_bundles
from mcdropout.ray import routing, scaling
from mcdropout.ray.options import Options
from mcdropout.ray.replica import Replica

_LOOK_BACK_SECONDS = 15.0  # over which the rows of each replica are averaged
_RETRY_AFTER_SECONDS = 1


def application(options: Options) -> Application:
    """The service as an application of Ray Serve.

    Raises:
        BundleError: the folder of models holds no bundle, or not the default one.
    """
    for module in (routing, scaling):  # for processes of Ray's that cannot import them
        cloudpickle.register_pickle_by_value(module)
    options = _settled(options)
    settings = options.service_settings()
    router = RequestRouterConfig(
        request_router_class=routing.ByModel,
        request_router_kwargs={"default": options.default, "busy": options.spread_above},
    )
    deployment = serve.deployment(
        name="mcdropout",
        max_ongoing_requests=options.max_ongoing_requests,
        max_queued_requests=options.max_queued_requests,
        backpressure_config=BackpressureConfig(retry_after_s=_RETRY_AFTER_SECONDS),
        ray_actor_options={"num_cpus": options.num_cpus, "num_gpus": options.num_gpus},
        graceful_shutdown_timeout_s=settings.grace_seconds,
        autoscaling_config=AutoscalingConfig(
            min_replicas=options.min_replicas,
            max_replicas=options.max_replicas,
            upscale_delay_s=options.upscale_delay_s,
            downscale_delay_s=options.downscale_delay_s,
            look_back_period_s=_LOOK_BACK_SECONDS,
            policy=AutoscalingPolicy(
                policy_function=scaling.ByQueueRows, policy_kwargs={"rows_per_replica": options.rows_per_replica}
            ),
        ),
        logging_config=LoggingConfig(enable_access_log=False),  # the service's own says more
        **({"request_router_config": router} if options.route_by_model else {}),
    )(serve.ingress()(Replica))
    return deployment.bind(options)


def _settled(options: Options) -> Options:
    """The options with what would be found otherwise on another machine, or at another time."""
    settings = options.service_settings()
    folder = Path(settings.models).absolute()
    _, default = named_bundles(folder, settings.default)
    return options.model_copy(update={"models": str(folder), "default": default})
