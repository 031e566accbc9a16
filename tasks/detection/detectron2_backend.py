"""stub"""


class Detectron2Backend:
    name = "detectron2"
    differences: tuple[str, ...] = ()

    def available(self) -> str | None:
        return "detectron2 is not here"
