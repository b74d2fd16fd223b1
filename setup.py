"""For pip: the library half of steer_ros, without ROS. colcon builds the whole of it, from package.xml."""

from setuptools import find_namespace_packages, setup

nodes = ["steer_ros.nodes", "steer_ros.nodes.*"]
library = find_namespace_packages(include=["steer_ros", "steer_ros.*"], exclude=nodes)
kernels = find_namespace_packages("kernels")

setup(
    name="steer_ros",
    version="0.2.0",
    description="Video to text to action with steered attention (Qwen2-VL and DeepSeek-R1 distils)",
    maintainer="The steer_ros maintainers",
    maintainer_email="maintainers@steer-ros.invalid",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*library, "steer_ros.kernels", *(f"steer_ros.kernels.{name}" for name in kernels)],
    package_dir={"steer_ros.kernels": "kernels"},
    package_data={"": ["*.safetensors", "*.json", "*.yaml", "*.jinja", "*.txt"]},
    install_requires=[
        "torch>=2.11",
        "transformers>=5.17,<6",
        "safetensors",
        "tokenizers",
        "numpy",
        "opencv-python-headless",
        "pillow",
        "pyyaml",
    ],
    extras_require={
        "bags": ["rosbags>=0.10", "imageio"],
        "kernels": ["triton>=3.6"],
        "test": ["pytest>=8", "pytest-timeout", "hypothesis"],
    },
    entry_points={"console_scripts": ["steer-ros = steer_ros.cli:main"]},
)
