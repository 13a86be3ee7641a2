// Methods that QuPath renamed from one version to the next: the first of these names that is there is called
def firstOf = { target, names, Object... arguments ->
    def name = names.find { !target.metaClass.respondsTo(target, it).isEmpty() }
    return target."$name"(*arguments)
}

// An image's slide_id: its name without suffix, safe as a file's name everywhere, and used once
def used = [] as Set
def idOf = { entry ->
    def name = entry.getImageName().replaceAll(/\.[A-Za-z0-9]{2,5}$/, "")
    name = name.replaceAll(/[^A-Za-z0-9._ -]/, "_").replaceAll(/^[. ]+|[. ]+$/, "")
    def unique = name
    for (int n = 2; !used.add(unique.toLowerCase()); n++)
        unique = name + "_" + n
    return unique
}

// Why an image is not its file as it was scanned, or null: its outlines would be shifted on the file
def changed = { entry ->
    def builder = entry.getServerBuilder()
    def kind = builder == null ? "nothing" : builder.getClass().getSimpleName()
    if (kind != "DefaultImageServerBuilder")
        return "is made by " + kind + " (rotated, cropped, rescaled or recoloured), not the file as it was scanned"
    if (builder.getArgs()?.any { it == "--series" })
        return "is one series of a file that holds several"
    return null
}
def argumentsOf = { entry -> (entry.getServerBuilder().getArgs() ?: []) as List }

// Predictions have a class of their own, and are no truth until a person gives them another
def isPredicted = { it.getPathClass()?.toString()?.toLowerCase()?.startsWith("predicted ") }
// What a person has drawn, in short: to be compared later
def drawnIn = { annotations ->
    def own = annotations.findAll { !isPredicted(it) }
    return own.size() + " of " + String.format(Locale.ROOT, "%.1f", (own.sum { it.getROI().getArea() } ?: 0) as double) + " px2 " +
        own.collect { it.getPathClass()?.toString() ?: "" }.sort().join(", ")
}
// Keys of an image's metadata that these scripts write
def UNTOUCHED = "tlskit untouched"      // what was saved of it are predictions alone
def BROUGHT = "tlskit predictions"      // which predictions were brought in
def BEFORE = "tlskit drawn before"      // what a person had drawn until then
