"""`rightbatch verify`."""

from dataclasses import dataclass, field

from ..errors import RunFolderError


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyCommand:
    """Prove that each sample was consumed exactly once per epoch and the checkpoints are intact; exit code 1 if not."""

    folder: str = field(metadata={"help": "the run folder", "metavar": "RUN", "positional": True})

    def run(self) -> int:
        """Read the ledger and the checkpoints and print what they prove."""
        from ..record import RunFolder, verify_ledger
        from ..record.checksum import open_verified

        folder = RunFolder.open(self.folder)
        samples = folder.read_config().get("train_samples")
        if not isinstance(samples, int):
            raise RunFolderError(f"{folder.config} does not say train_samples, the number of training samples.")
        report = verify_ledger(folder.ledger, samples)
        proved = report.ok and report.entries > 0
        print(f"{self.folder}: {'proved' if proved else 'not proved'}: {report}")
        for file in (folder.checkpoint, folder.previous_checkpoint):
            if file.exists():
                try:
                    with open_verified(file):
                        print(f"{file}: agrees with its SHA-256 digest")
                except RunFolderError as error:
                    print(error)
                    proved = False
        return 0 if proved else 1
