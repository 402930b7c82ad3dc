"""The sources of the public traces and videos: repository, commit, folder, and the hash of what is expected there."""

from __future__ import annotations

from edgenetllm.tasks.fetch import Source

_NETLLM = ("duowuyms/NetLLM", "105bcf070f2bec808f7b14f8f5a953de6e4e6e54")  # MIT
_PENSIEVE_PPO = ("yindaheng98/Pensieve-PPO", "2bedc6eb5e3aa2c94916f4d371569822e7552182")  # BSD-2 / MIT
_MERINA = ("confiwent/Real-world-bandwidth-traces", "d28c4fd48d0e358db024cc0217b111c070815fa7")  # MIT
_TRACES = "adaptive_bitrate_streaming/data/traces"
_VIDEOS = "adaptive_bitrate_streaming/data/videos"

# Folder under paths.data_dir -> source.
SOURCES = {
    "abr/fcc/train": Source(
        *_NETLLM, f"{_TRACES}/train/fcc-train", 235, "26285035449bc6b50bb3b79bc6c014d794de316b07ff075e03d05b791aef7fb7"
    ),
    "abr/fcc/test": Source(
        *_NETLLM, f"{_TRACES}/test/fcc-test", 100, "0ad04e6543765a02e680455e880c2eb8674714360f6b34e41a0eefe2a1c2d589"
    ),
    "abr/merina/train": Source(
        *_MERINA,
        "fcc_and_hsdpa/backup_01/cooked_traces",
        1500,
        "eb5f27bca6e17f4d4220d281f6adacbb162676ae05276286a0a2f6c1b6b5f3c4",
        damaged=("trace_13341_http---www.amazon.com",),  # line 26 has a negative bandwidth
    ),
    "abr/norway/train": Source(
        *_PENSIEVE_PPO, "src/train", 127, "ee12e3eef010172536c50c000050af80e3059becbce32c6ad363c937bc6bb44a"
    ),
    "abr/norway/test": Source(
        *_PENSIEVE_PPO, "src/test", 142, "0f603c2b2dbe3500ab28610e486661c2baff61f9a11ed7194f94e72f007ce42d"
    ),
    "abr/oboe/test": Source(
        *_MERINA, "traces_oboe", 428, "90f7feea4942aebfb4d61a7834eb61a0cd374d7e38feae000a2ec551a20f69f7"
    ),
    "abr/puffer-211017/train": Source(
        *_MERINA,
        "puffer_211017/cooked_traces",
        150,
        "429edab35a1a2ae8fab0e5f8d48b3568d2c5e49b9b446429d8ad046308b6552a",
        every=10,
    ),
    "abr/puffer-211017/test": Source(
        *_MERINA,
        "puffer_211017/cooked_test_traces",
        100,
        "d51449c045d2f8f0a4fe350234cf99fdea2209bda64d822b9df458dcfb718b77",
        every=5,
    ),
    "abr/videos/video1": Source(
        *_NETLLM, f"{_VIDEOS}/video1_sizes", 6, "9d9522018b54ef271dac77ec61bbc6d46f95c10bff3891318b0b85ce415c268b"
    ),
    "abr/videos/video2": Source(
        *_NETLLM, f"{_VIDEOS}/video2_sizes", 6, "ffc61fe3cccf98daff7438ee7ea8c4574e6c060ad191ef85f4d83dfeb80b9dc9"
    ),
}

NETLLM_SEED = 998244353  # RANDOM_SEED of NetLLM's environment: start pointers are drawn with it, in file order

# The public fcc-test set comes with its start pointers (a file next to the traces), which no seed reproduces.
FCC_TEST_STARTS = [
    28, 99, 32, 27, 26, 30, 35, 93, 187, 294, 164, 163, 64, 38, 59, 278, 40, 52, 15, 51, 55, 190, 29, 41, 54, 125, 16,
    273, 37, 205, 141, 27, 145, 198, 46, 45, 26, 287, 51, 32, 62, 284, 22, 47, 20, 172, 32, 26, 49, 35, 59, 144, 275, 30,
    64, 5, 15, 263, 19, 54, 28, 35, 56, 62, 41, 43, 165, 210, 50, 54, 28, 5, 171, 288, 55, 9, 44, 47, 54, 281, 272, 215,
    64, 277, 61, 114, 13, 196, 40, 158, 16, 23, 143, 303, 224, 29, 26, 205, 55, 3,
]  # fmt: skip
