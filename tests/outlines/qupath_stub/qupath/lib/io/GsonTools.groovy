package qupath.lib.io

class GsonTools {
    static getInstance() { new GsonTools() }
    Object fromJson(String text, Class type) { new groovy.json.JsonSlurper().parseText(text) }
}
